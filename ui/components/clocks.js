// Moves the clocks that ui/clocks.py wrote, once a second, by the portal's time.
const MARK = Symbol.for("scenebridge-clocks");

export default function (component) {
  const clocks = window[MARK] || (window[MARK] = start());
  // The answer was some time under way: the least that was ever seen is the nearest.
  clocks.ahead = Math.min(clocks.ahead, Date.now() / 1000 - component.data.now);
  return () => {};
}

// One for the document: Streamlit may unmount and mount the component as it likes.
function start() {
  const clocks = { ahead: Infinity };
  setInterval(() => {
    if (document.hidden) return;
    const now = Date.now() / 1000 - clocks.ahead;
    for (const clock of document.querySelectorAll("[data-sb-clock]")) {
      const { sbClock, since, until } = clock.dataset;
      const text = `${duration(until ? until - now : now - since)} ${sbClock}`;
      if (clock.textContent !== text) clock.textContent = text;
    }
  }, 1000);
  return clocks;
}

// As in ui/text.py.
function duration(seconds) {
  const total = Math.max(0, Math.floor(seconds)), two = (n) => String(n).padStart(2, "0");
  const m = Math.floor(total / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${two(m % 60)} min`;
  return m ? `${m} min ${two(total % 60)} s` : `${total} s`;
}
