// The scenes of the search as a table with check boxes: the same data as the map, fetched
// from the same address, for the keyboard and for screen readers.
const STEP = 50;

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const root = parentElement.querySelector(".sb-table");
  let s = root.__state;
  if (!s) s = root.__state = create(root);
  s.send = (events) => setStateValue("events", { boot: s.boot, events });
  update(s, data);
  return () => {};
}

function create(root) {
  const s = {
    root, boot: Math.random().toString(36).slice(2), seq: 0, events: [], asked: 0,
    url: null, features: [], picked: new Set(), limit: STEP, order: "time", down: true,
    body: root.querySelector("tbody"), more: root.querySelector(".more"), note: root.querySelector(".note"),
    table: root.querySelector("table"),
  };
  s.more.onclick = () => { s.limit += STEP * 2; draw(s); };
  for (const head of root.querySelectorAll("button[data-order]")) {
    head.onclick = () => {
      s.down = s.order === head.dataset.order ? !s.down : head.dataset.order === "time";
      s.order = head.dataset.order;
      draw(s);
    };
  }
  const back = () => {
    if (!root.isConnected) removeEventListener("scenebridge:back", back);
    else if (s.failed) load(s);
  };
  addEventListener("scenebridge:back", back);  // the portal was away (live.js)
  return s;
}

function update(s, data) {
  s.platforms = data.platforms || {};
  s.nothing = data.nothing || "";
  const settled = !s.seq || (data.boot === s.boot && data.seq >= s.seq);
  const chosen = data.chosen || [];
  if (settled && !same(s.picked, chosen)) { s.picked = new Set(chosen); marks(s); }
  if (data.url === s.url) return;
  s.url = data.url;
  s.limit = STEP;
  load(s);
}

function load(s) {
  const mine = ++s.asked;
  s.failed = false;
  fetch(s.url, { credentials: "same-origin" })
    .then((r) => { if (!r.ok) throw new Error(String(r.status)); return r.json(); })
    .then((found) => { if (mine === s.asked) { s.features = found.features.map((f) => f.properties); draw(s); } })
    .catch(() => { if (mine === s.asked) { s.failed = true; s.features = []; draw(s); say(s, "The list of scenes could not be loaded. Change a filter to try again."); } });
}

const same = (set, list) => set.size === list.length && list.every((x) => set.has(x));

function say(s, text) {
  s.note.textContent = text;
  s.note.hidden = !text;
  s.table.hidden = !!text;
}

function compare(s) {
  const key = s.order;
  const value = (p) => (p[key] === null || p[key] === undefined ? Infinity : p[key]);
  return (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (s.down ? -1 : 1);
}

function draw(s) {
  const rows = [...s.features].sort(compare(s)).slice(0, s.limit);
  s.body.replaceChildren(...rows.map((p) => row(s, p)));
  for (const head of s.root.querySelectorAll("th[data-order]")) {
    head.setAttribute("aria-sort", head.dataset.order !== s.order ? "none" : s.down ? "descending" : "ascending");
  }
  const left = s.features.length - rows.length;
  s.more.hidden = left <= 0;
  s.more.textContent = `Show more (${left.toLocaleString("en")} not shown)`;
  say(s, s.features.length ? "" : s.nothing);
  s.root.dataset.rows = String(rows.length);
}

function row(s, p) {
  const tr = document.createElement("tr");
  tr.dataset.id = p.id;
  const tick = document.createElement("input");
  tick.type = "checkbox";
  tick.checked = s.picked.has(p.id);
  tick.setAttribute("aria-label", `Choose ${p.title}`);
  tick.onchange = () => toggle(s, p.id, tick.checked);
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = "";
  image.width = image.height = 40;
  image.src = `/api/scenes/${encodeURIComponent(p.id)}/quicklook.webp?size=128`;
  image.onerror = () => { image.style.visibility = "hidden"; };
  const title = cell();
  title.className = "title";
  title.append(p.title);
  if (p.synthetic) { const t = document.createElement("span"); t.className = "tag"; t.textContent = "synthetic"; title.append(" ", t); }
  const small = document.createElement("small");
  small.textContent = p.id;
  title.append(small);
  tr.append(
    cell(tick), cell(image), title,
    cell((p.time || "").slice(0, 16).replace("T", " ")), cell(s.platforms[p.platform] || p.platform),
    cell(p.cloud === null || p.cloud === undefined ? "unknown" : `${Math.round(p.cloud)} %`),
  );
  tr.classList.toggle("on", tick.checked);
  tr.onclick = (e) => { if (e.target !== tick) { tick.checked = !tick.checked; toggle(s, p.id, tick.checked); } };
  return tr;
}

function cell(content) {
  const td = document.createElement("td");
  if (content !== undefined) td.append(content);
  return td;
}

function toggle(s, id, on) {
  if (on) s.picked.add(id); else s.picked.delete(id);
  marks(s);
  s.seq += 1;
  s.events = [...s.events, { kind: "toggle", id, on, seq: s.seq }].slice(-20);
  s.send(s.events);
}

function marks(s) {
  for (const tr of s.body.rows) {
    const on = s.picked.has(tr.dataset.id);
    tr.classList.toggle("on", on);
    tr.querySelector("input").checked = on;
  }
}
