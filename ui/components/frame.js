// Mends what Streamlit draws around the pages: the menu of a narrow window, what Back leaves, and what
// it tells those who started it while the portal is away (live.js says it to everybody else).
const MARK = Symbol.for("scenebridge-frame");
const OPEN = "[data-testid=stExpandSidebarButton]", CLOSE = "[data-testid=stSidebarCollapseButton] button";
const NAMES = [[OPEN, "Menu"], [CLOSE, "Close menu"], ["[data-testid=stLogoLink]", "SceneBridge: to Explore"],
  ["[data-testid=stSidebar]", "Menu"], ["[data-testid=stSidebarNav]", "Pages"]];

export default function () {
  if (!window[MARK]) window[MARK] = mend();
  return () => {};
}

// Once for the document: Streamlit may unmount and mount the component as it likes.
function mend() {
  // A page's own query stays one step: Streamlit 1.67 pushes each change of it.
  const push = history.pushState.bind(history);
  history.pushState = (state, unused, url) =>
    (url && new URL(url, location).pathname === location.pathname ? history.replaceState.bind(history) : push)(state, unused, url);
  let pressed = "";
  addEventListener("click", (event) => {
    pressed = [OPEN, CLOSE].find((it) => event.target.closest && event.target.closest(it)) || "";
  }, true);
  const look = () => {
    for (const [what, name] of NAMES)
      for (const it of document.querySelectorAll(what)) if (it.ariaLabel !== name) it.ariaLabel = name;
    for (const title of document.querySelectorAll("[role=dialog] h2"))
      if (title.textContent === "Connection error") title.closest("[role=dialog]").querySelector("button").click();
    const next = pressed && document.querySelector(pressed === OPEN ? CLOSE : OPEN);
    if (!next) return;
    pressed = "";
    next.focus();  // what had the focus is not drawn any more
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  look();
  return true;
}
