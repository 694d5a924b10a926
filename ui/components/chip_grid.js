// The grid of thumbnails (chips). Every chip is a button; pressing it marks the object on the map.
// A chip that is already in the grid is kept, so new ones arrive without flicker.
export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const root = parentElement.querySelector(".sb-chip-grid");
  root.__chips = root.__chips || new Map();
  root.__pick = (key) => setTriggerValue("marked", key);
  const old = root.__chips, kept = new Map();
  const nodes = data.chips.map((chip) => {
    const before = old.get(chip.key);
    const text = JSON.stringify(chip);
    const entry = before && before.text === text ? before : { text, node: make(root, chip) };
    kept.set(chip.key, entry);
    entry.node.setAttribute("aria-pressed", String(chip.key === data.marked));
    return entry.node;
  });
  root.__chips = kept;
  const list = root.querySelector(".chips");
  nodes.forEach((node, i) => { if (list.children[i] !== node) list.insertBefore(node, list.children[i] || null); });
  while (list.children.length > nodes.length) list.lastChild.remove();
  root.dataset.count = String(nodes.length);
  return () => {};
}

function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function make(root, chip) {
  const button = el("button", "chip");
  button.type = "button";
  button.dataset.key = chip.key;
  button.onclick = () => root.__pick(chip.key);
  const frame = el("span", "frame");
  if (chip.src) {
    const image = el("img");
    image.loading = "lazy";
    image.src = chip.src;
    image.alt = `${chip.label}, score ${chip.score}, ${chip.time}`;
    image.onerror = () => { image.remove(); frame.append(el("span", "none", "no thumbnail")); };
    frame.append(image);
  } else frame.append(el("span", "none", "no thumbnail"));
  const score = el("span", "score", chip.score);
  score.title = chip.meaning;
  score.style.setProperty("--share", chip.share);
  frame.append(score);
  const name = el("span", "name", chip.label);
  const lines = [chip.time, chip.size, chip.scene].map((t) => el("span", "line", t));
  lines[2].title = chip.scene;
  button.append(frame, name, ...lines);
  if (chip.synthetic) button.append(el("span", "flag synthetic", "synthetic"));
  for (const flag of chip.flags) button.append(el("span", "flag", flag));
  return button;
}
