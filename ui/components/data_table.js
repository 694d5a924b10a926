// A table with buttons in its rows. Rows that did not change are kept, so that the focus
// stays where it is while others come and go.
export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const root = parentElement.querySelector(".data-table"), table = root.querySelector("table");
  root.__press = (row, action) => setTriggerValue("pressed", { row, action });
  table.setAttribute("aria-label", data.label);
  const columns = JSON.stringify(data.columns) + data.rows.some((r) => r.actions.length);
  if (root.__columns !== columns) {
    root.__columns = columns;
    root.__rows = new Map();
    table.tHead.replaceChildren(head(data));
    table.tBodies[0].replaceChildren();
  }
  const old = root.__rows, kept = new Map();
  const nodes = data.rows.map((row) => {
    const text = JSON.stringify(row), before = old.get(row.id);
    const entry = before && before.text === text ? before : { text, node: make(root, row, data) };
    kept.set(row.id, entry);
    return entry.node;
  });
  root.__rows = kept;
  const body = table.tBodies[0];
  nodes.forEach((node, i) => { if (body.children[i] !== node) body.insertBefore(node, body.children[i] || null); });
  while (body.children.length > nodes.length) body.lastChild.remove();
  root.dataset.rows = String(nodes.length);
  return () => {};
}

function el(tag, className, text, role) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (role) node.setAttribute("role", role);  // narrow screens take the table's own roles away
  return node;
}

function head(data) {
  const tr = el("tr", "", undefined, "row");
  for (const title of data.columns) {
    const th = el("th", "", title, "columnheader");
    th.scope = "col";
    tr.append(th);
  }
  if (data.rows.some((r) => r.actions.length)) {
    const th = el("th", "", undefined, "columnheader");
    th.scope = "col";
    th.append(el("span", "hide", "What can be done"));
    tr.append(th);
  }
  return tr;
}

function make(root, row, data) {
  const tr = el("tr", "", undefined, "row");
  tr.dataset.id = row.id;
  row.cells.forEach((cell, i) => {
    const td = el("td", i ? "" : "first", undefined, "cell");
    td.dataset.label = data.columns[i];
    const line = el("span");
    if (cell.text) line.append(el("span", "text", cell.text));
    for (const [text, kind] of cell.tags) line.append(el("span", `tag ${kind}`, text));
    if (line.childNodes.length) td.append(line);
    if (cell.small) td.append(el("small", "", cell.small));
    if (!td.childNodes.length) td.classList.add("empty");
    tr.append(td);
  });
  if (data.rows.some((r) => r.actions.length)) {
    const td = el("td", row.actions.length ? "acts" : "acts empty", undefined, "cell");
    for (const [name, said] of row.actions) {
      const button = el("button", "", said);
      button.type = "button";
      button.dataset.action = name;
      button.setAttribute("aria-label", `${said} ${row.cells[0].text}`);
      button.onclick = () => root.__press(row.id, name);
      td.append(button);
    }
    tr.append(td);
  }
  return tr;
}
