// Asks for a fragment of the page again when the portal says that what it shows has changed.
// One WebSocket for the document tells the stamps of all that the page shows (lib/web/change_feed.py).
const MARK = Symbol.for("scenebridge-live"), GAP_MS = 500, ANSWER_MS = 15000;
const PAUSE_MS = 500, LONGEST_PAUSE_MS = 8000, AWAY_AFTER_MS = 3000, SIGNED_OUT = 4401;

export default function (component) {
  const live = window[MARK] || (window[MARK] = create());
  const { topic, seen, again } = component.data;
  const follower = live.followers.get(component.key) || { asked: 0, waits: false };
  Object.assign(follower, { topic, seen, again: again * 1000, drawn: Date.now(), waits: false });
  follower.ask = (stamp) => component.setTriggerValue("changed", stamp);
  live.followers.set(component.key, follower);
  follow(live);
  look(live);
  return () => { if (live.followers.get(component.key) === follower) live.followers.delete(component.key); };
}

// One for the document: Streamlit may unmount and mount the component as it likes.
function create() {
  const live = { followers: new Map(), stamps: {}, socket: null, asked: "", pause: PAUSE_MS, away: 0 };
  document.addEventListener("visibilitychange", () => look(live));
  addEventListener("pageshow", () => connect(live));
  setInterval(() => look(live), GAP_MS);
  connect(live);
  return live;
}

function connect(live) {
  if (live.socket) return;
  const socket = live.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/changes`);
  live.asked = "";
  socket.onopen = () => {
    if (live.away) back();
    live.pause = PAUSE_MS;
    live.away = 0;
    say(live);
    follow(live);
  };
  socket.onmessage = (message) => { Object.assign(live.stamps, JSON.parse(message.data)); look(live); };
  socket.onclose = (closed) => {
    live.socket = null;
    live.away = live.away || Date.now();
    if (closed.code >= SIGNED_OUT && closed.code < 4404) { live.away = 0; return; }  // the sign-in is over
    setTimeout(() => connect(live), live.pause * (0.5 + Math.random()));
    live.pause = Math.min(2 * live.pause, LONGEST_PAUSE_MS);
  };
}

// Whatever failed while the portal was away is asked for again: by those who listen, and pictures.
function back() {
  dispatchEvent(new Event("scenebridge:back"));
  for (const image of document.images) if (image.complete && !image.naturalWidth) image.src = image.src;
}

function follow(live) {
  const topics = [...new Set([...live.followers.values()].map((f) => f.topic))].sort();
  const asked = JSON.stringify({ follow: topics });
  if (!live.socket || live.socket.readyState !== WebSocket.OPEN || asked === live.asked) return;
  live.asked = asked;
  live.socket.send(asked);
}

function look(live) {
  say(live);
  if (document.hidden) return;
  const now = Date.now();
  for (const [key, f] of live.followers) {
    const stamp = live.stamps[f.topic];
    const due = (stamp !== undefined && stamp !== f.seen) || (f.again && now - f.drawn > f.again);
    // Without a stamp the portal could not be asked: not again at once.
    const gap = f.waits ? ANSWER_MS : f.seen ? GAP_MS : AWAY_AFTER_MS;
    if (!due || now - f.asked < gap) continue;
    f.asked = now;
    f.waits = true;
    f.ask(`${stamp} ${now}`);
  }
}

// While the portal does not answer, what stands on the page is what was last known.
function say(live) {
  const away = live.away && Date.now() - live.away > AWAY_AFTER_MS;
  let said = document.getElementById("sb-away");
  if (!away) { if (said) said.remove(); return; }
  if (said) return;
  said = document.createElement("div");
  said.id = "sb-away";
  said.setAttribute("role", "status");
  said.textContent = "The portal does not answer. This page shows what was last known, and goes on by itself.";
  (document.querySelector(".stApp") || document.body).append(said);
}
