// What JupyterLab's page says of the portal: the way back, the time left, and what is away.
// The proxy puts this behind the page (lab_bar.py). It runs in the notebook's origin, which may
// forge or remove it; it knows nothing that the notebook may not know.
(() => {
  const { work, open } = document.currentScript.dataset;
  const STATE = "/_portal/state", KEEP = "/_portal/keep";
  const EVERY_MS = 15000, AGAIN_MS = 3000, PATIENCE_MS = 10000, NEAR_S = 600;
  const SIGNED_OUT = "Your sign-in or this notebook has ended.";
  const AWAY = "The portal does not answer. The notebook goes on, and this page connects again by itself.";
  const make = (name, set, ...children) => {
    const element = Object.assign(document.createElement(name), set);
    element.append(...children);
    return element;
  };

  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { position: fixed; top: 0; right: 0; z-index: 20000; max-width: 100%; font: 13px/1.4 system-ui, sans-serif; }
    nav { display: flex; justify-content: flex-end; align-items: center; gap: 12px; min-height: 26px; margin-left: auto; width: fit-content;
      padding: 0 10px; background: var(--jp-layout-color1, #fff); color: var(--jp-ui-font-color1, #18242d); }
    a { color: inherit; }
    span { font-variant-numeric: tabular-nums; }
    div { max-width: 46rem; margin: 4px 8px 0 auto; padding: 8px 12px; border-left: 4px solid #9a4a00; border-radius: 4px;
      background: #fdf3e8; color: #18242d; box-shadow: 0 1px 6px #0004; }
    button { margin-left: 10px; font: inherit; padding: 2px 10px; cursor: pointer; }
    div a { margin-left: 10px; }
    [hidden] { display: none; }
    :focus-visible { outline: 2px solid var(--jp-brand-color1, #0b5f8a); outline-offset: 1px; }
  `);
  const back = make("a", { href: work, target: "_top", textContent: "Back to SceneBridge" });
  back.hidden = window.top !== window;  // the portal's page is around it
  const left = make("span", {});
  const said = make("p", { style: "display: inline; margin: 0" });
  said.setAttribute("role", "status");
  const keep = make("button", { type: "button", textContent: "Keep it running", hidden: true });
  const again = make("a", { href: open, target: "_top", textContent: "Open it again", hidden: true });
  const box = make("div", { hidden: true }, said, keep, again);
  const nav = make("nav", { ariaLabel: "SceneBridge" }, back, left);
  const host = make("scenebridge-bar", {});
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [sheet];
  root.append(nav, box);

  // Times of the portal, by this computer's clock.
  let ends = 0, idle = 0, line = "", trouble = "", over = false, failed = 0, timer = 0, asked = null;

  function ask() {
    asked ||= look().finally(() => { asked = null; });
    return asked;
  }

  async function look() {
    clearTimeout(timer);
    try {
      const answer = await fetch(STATE, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      over = answer.status === 401;
      if (!over && !answer.ok) throw new Error(answer.status);
      if (over) trouble = SIGNED_OUT;
      else take(await answer.json());
      failed = 0;
    } catch {
      failed += 1;
      if (failed > 1) trouble = AWAY;  // one look in vain is none
    }
    draw();
    timer = setTimeout(ask, failed || line || trouble ? AGAIN_MS : EVERY_MS);
  }

  function take(state) {
    const ahead = Date.now() - state.now * 1000;
    ends = state.ends_at ? state.ends_at * 1000 + ahead : 0;
    idle = state.idle_at ? state.idle_at * 1000 + ahead : 0;
    line = state.line;
    trouble = "";
    over = false;
  }

  function draw() {
    const s = Math.max(0, Math.floor((ends - Date.now()) / 1000));
    set(left, ends ? `${duration(s)} left` : "");
    const at = new Date(idle).toTimeString().slice(0, 5);
    const warned = idle
      ? `Nobody has worked here for a while. The notebook is ended at ${at}, and what it holds in memory is lost then; its files are kept.`
      : ends && s <= NEAR_S
        ? `The notebook ends in ${s < 60 ? "less than a minute" : `${Math.ceil(s / 60)} min`}. What it holds in memory is lost then; its files are kept.`
        : "";
    const text = trouble || line || warned;
    set(said, text);
    box.hidden = !text;
    keep.hidden = !idle || Boolean(trouble || line);
    again.hidden = !over || window.top !== window;
  }

  // A text that stays is not read out again.
  function set(element, text) { if (element.textContent !== text) element.textContent = text; }

  // As in ui/text.py, without the seconds of what is far away.
  function duration(total) {
    const m = Math.floor(total / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
    if (d) return `${d} d ${h % 24} h`;
    if (h) return `${h} h ${String(m % 60).padStart(2, "0")} min`;
    return m >= 10 ? `${m} min` : m ? `${m} min ${String(total % 60).padStart(2, "0")} s` : `${total} s`;
  }

  // Of all that is said here JupyterLab 4 only knows that its server does not answer. Where this bar
  // says why, that dialog goes, and does not come again.
  async function hush(dialog) {
    const title = () => (dialog.querySelector(".jp-Dialog-header") || dialog).textContent;
    while (dialog.isConnected && !title()) await new Promise((soon) => setTimeout(soon, 50));  // it is drawn later
    if (title() !== "Server Connection Error") return;
    do await ask(); while (failed === 1);
    if (!trouble && !line) return;
    for (const it of dialog.querySelectorAll("input[type=checkbox], .jp-mod-reject")) it.click();
  }

  new MutationObserver((changes) => {
    for (const { addedNodes } of changes)
      for (const node of addedNodes) if (node.matches && node.matches(".jp-Dialog")) hush(node);
  }).observe(document.body, { childList: true });
  // What fails is looked into at once.
  new PerformanceObserver((seen) => {
    const bad = ({ name, responseStatus: status }) => !name.endsWith(STATE) && (status === 0 || status > 500);
    if (!failed && seen.getEntries().some(bad)) ask();
  }).observe({ type: "resource" });
  keep.addEventListener("click", async () => {
    try { if ((await fetch(KEEP, { method: "POST" })).ok) idle = 0; } catch { /* the next look says why */ }
    draw();
    ask();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  addEventListener("online", ask);
  addEventListener("offline", ask);
  setInterval(draw, 1000);
  document.body.prepend(host);  // the first that Tab reaches
  ask();
})();
