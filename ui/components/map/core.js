// The bridge between the map in its frame and the page: one state in, events out.
//
// Python renders the map once and afterwards only calls `apply(state)`; what the user
// does comes back as the last few events, each with a number, so that none is lost when
// several happen before the page answers.
(function () {
  "use strict";
  const KEEP_EVENTS = 20;
  const parts = [];
  let fitting = false;
  const sb = {
    map: null,
    state: {},
    theme: "light",
    boot: Math.random().toString(36).slice(2),
    events: [],
    seq: 0,
    /** A part of the map: {attach(map), apply(state, before), theme(name), again()}, all optional. */
    part(p) { parts.push(p); },
    each(method, ...args) { for (const p of parts) if (p[method]) p[method](...args); },

    attach(map) {
      sb.map = map;
      map.attributionControl.setPrefix("Leaflet");
      sb.each("attach", map);
      sb.listenForTheme();
      sb.listenForReturn();
      // The frame is resized by the page; Leaflet hears only of windows.
      const box = map.getContainer();
      new ResizeObserver(() => { map.invalidateSize({ pan: false }); sb.refit(); }).observe(box);
      map.on("movestart zoomstart", () => { if (!fitting) sb.refit = () => {}; });
      document.documentElement.dataset.ready = "yes";
    },

    apply(state) {
      const before = sb.state;
      sb.state = state;
      const view = state.view;
      if (view && (!before.view || before.view.seq !== view.seq)) sb.show(view.bbox);
      sb.each("apply", state, before);
    },

    /** Show (west, south, east, north); `fly` there where the browser's user likes what moves. */
    show(bbox, maxZoom = 11, fly = false) {
      const [w, s, e, n] = bbox;
      const east = e < w ? e + 360 : e;
      // A frame that is still being laid out has not its size yet: fit again with each new
      // size, until the map is moved otherwise.
      const fit = (how) => {
        fitting = true;
        how.call(sb.map, [[s, w], [n, east]], { padding: [36, 36], maxZoom, animate: how !== sb.map.fitBounds, duration: 0.8 });
        fitting = false;
      };
      sb.refit = () => fit(sb.map.fitBounds);
      sb.map.invalidateSize({ pan: false });
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches || sb.map.getSize().y < 50;
      fit(fly && !still ? sb.map.flyToBounds : sb.map.fitBounds);
    },

    refit() {},

    emit(event) {
      sb.seq += 1;
      sb.events = [...sb.events, { ...event, seq: sb.seq }].slice(-KEEP_EVENTS);
      window.Streamlit.setComponentValue({ boot: sb.boot, events: sb.events });
    },

    /** Whether the page has answered everything that was emitted. */
    settled(state) { return !sb.seq || (state.boot === sb.boot && state.seq >= sb.seq); },

    /** After the portal was away: what could not be loaded meanwhile is loaded (ui/components/live.js). */
    listenForReturn() {
      const again = () => sb.each("again");
      window.parent.addEventListener("scenebridge:back", again);
      addEventListener("pagehide", () => window.parent.removeEventListener("scenebridge:back", again));
    },

    listenForTheme() {
      const set = (theme) => {
        const dark = theme && theme.base === "dark";
        const name = dark ? "dark" : "light";
        if (name === sb.theme && document.documentElement.dataset.theme) return;
        sb.theme = name;
        document.documentElement.dataset.theme = name;
        sb.each("theme", name);
      };
      set(window.parent !== window ? sb.lastTheme : null);
      window.Streamlit.events.addEventListener("streamlit:render", (e) => set(e.detail.theme));
    },
  };

  // The first render event comes before the map is there: remember its theme.
  window.addEventListener("message", (e) => {
    if (e.source === window.parent && e.data && e.data.type === "streamlit:render") {
      sb.lastTheme = e.data.theme;
    }
  });

  /** An element with text; text never becomes markup. */
  sb.el = function (tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  sb.day = (time) => (time || "").slice(0, 10);
  sb.cloud = (c) => (c === null || c === undefined ? "cloud unknown" : `${Math.round(c)} % cloud`);

  window.sceneBridge = sb;
})();
