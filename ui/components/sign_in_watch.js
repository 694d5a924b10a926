// Leaves the page when the sign-in that it was made for is over, whoever ended it.
// It only asks who is signed in; a question is not an act, so idle time goes on.
const EVERY_MS = 15000, SIGN_OUT = ".st-key-sign-out, .st-key-sign-out-everywhere-now";
const MARK = Symbol.for("scenebridge-sign-in-watch");

export default function (component) {
  const watch = window[MARK] || (window[MARK] = create());
  watch.user = component.data.user;
  if (!watch.timer) watch.timer = setInterval(() => ask(watch), EVERY_MS);
  if (Date.now() - watch.asked > 1000) ask(watch);
  return () => {};
}

// One for the document: Streamlit may unmount and mount the component as it likes.
function create() {
  const watch = { user: null, timer: 0, asking: false, asked: 0, leaving: false };
  const soon = () => ask(watch, true);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
  addEventListener("focus", soon);
  addEventListener("pageshow", soon);
  // The portal closes Streamlit's socket with a sign-in (code 4401); Streamlit says so here.
  const app = document.querySelector("[data-test-connection-state]");
  if (app) new MutationObserver(soon).observe(app, { attributeFilter: ["data-test-connection-state"] });
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest(SIGN_OUT)) watch.leaving = true;
  }, true);
  return watch;
}

async function ask(watch, again = false) {
  if (watch.asking) { watch.again = watch.again || again; return; }
  watch.asking = true;
  watch.asked = Date.now();
  try {
    const answer = await fetch("/api/me", { credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401) return leave(watch);
    if (answer.ok && (await answer.json()).id !== watch.user) return location.reload();
  } catch { /* the network fails: nothing is known, so nothing is done */ }
  watch.asking = false;
  if (watch.again) { watch.again = false; ask(watch); }
}

function leave(watch) {
  setTimeout(() => { watch.asking = false; }, EVERY_MS);  // should the way there fail
  const onward = encodeURIComponent(location.pathname + location.search);
  location.replace(watch.leaving ? "/signin?why=out" : `/signin?why=ended&next=${onward}`);
}
