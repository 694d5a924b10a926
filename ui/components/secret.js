// Something to be copied and not kept: a field that can be selected, and a button that copies.
export default function (component) {
  const { parentElement, data } = component;
  const root = parentElement.querySelector(".secret");
  const field = root.querySelector("input"), said = root.querySelector(".said");
  field.setAttribute("aria-label", data.label);
  if (field.value !== data.text) { field.value = data.text; said.textContent = ""; }
  field.onfocus = () => field.select();
  root.querySelector("button").onclick = async () => {
    try {
      await navigator.clipboard.writeText(field.value);
      said.textContent = "Copied.";
    } catch {
      field.focus();
      said.textContent = "Press Ctrl+C to copy.";
    }
  };
  return () => {};
}
