// The grid of thumbnails (chips). Every chip is a button; pressing it marks the object on the map.
// Where the map is out of sight, as below the grid on a phone, it is brought there, with a way back.
// A chip that is already in the grid is kept, so new ones arrive without flicker.
export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const root = parentElement.querySelector(".sb-chip-grid");
  root.__chips = root.__chips || new Map();
  if (!root.__back) {
    root.__back = () => {
      if (!root.isConnected) return removeEventListener("scenebridge:back", root.__back);
      for (const image of root.querySelectorAll("img[hidden]")) {
        image.loading = "eager";  // what is hidden is not loaded lazily
        image.src = image.src;
      }
    };
    addEventListener("scenebridge:back", root.__back);  // the portal was away (live.js)
  }
  root.__pick = (key) => setTriggerValue("marked", key);
  root.__back = parentElement.querySelector(".back");
  root.querySelector(".colours").textContent = data.colours ? `. Thumbnails: ${data.colours}` : "";
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

/** Bring the map on the screen unless its middle is there, and offer the way back to a chip that
 *  is not on it any more. */
function showMap(root, chip) {
  const map = document.querySelector("iframe[title^=streamlit_folium]");
  if (!map) return;
  const { top, height } = map.getBoundingClientRect();
  if (top + height / 4 >= 0 && top + (3 * height) / 4 <= window.innerHeight) return;
  map.scrollIntoView({ block: "center" });
  const now = chip.getBoundingClientRect();
  if (now.top > 0 && now.bottom < window.innerHeight) return;
  const back = root.__back;
  back.hidden = false;
  let left = false;
  const watch = new IntersectionObserver(([seen]) => {
    const here = seen.intersectionRatio > 0.9;
    if (here && left) done();
    left = left || !here;
  }, { threshold: [0, 0.9, 1] });
  const done = () => { back.hidden = true; watch.disconnect(); };
  watch.observe(chip);
  back.onclick = () => { done(); chip.scrollIntoView({ block: "center" }); chip.focus({ preventScroll: true }); };
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
  button.onclick = () => {
    const marks = button.getAttribute("aria-pressed") !== "true";
    root.__pick(chip.key);
    if (marks) showMap(root, button);
  };
  const frame = el("span", "frame");
  if (chip.src) {
    const image = el("img");
    image.loading = "lazy";
    image.src = chip.src;
    image.alt = `${chip.label}, score ${chip.score}, ${chip.time}`;
    const none = el("span", "none", "no thumbnail");
    image.onerror = () => { image.hidden = true; frame.append(none); };
    image.onload = () => { image.hidden = false; none.remove(); };
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
