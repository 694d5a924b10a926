// Detections of a run. The outlines are fetched by the browser; the filter of the page is
// applied here, so that changing it asks the portal for nothing.
(function () {
  "use strict";
  const sb = window.sceneBridge;
  const COLOURS = {
    light: { low: [245, 159, 0], high: [201, 42, 42] },
    dark: { low: [255, 212, 59], high: [255, 107, 107] },
  };
  const OUTLINE_ZOOM = 10;
  let map, outlines, points, mark;
  let url = null, asked = 0, features = [];

  function tint(score) {
    const { low, high } = COLOURS[sb.theme];
    const t = Math.min(1, Math.max(0, score));
    return `rgb(${low.map((v, i) => Math.round(v + (high[i] - v) * t)).join(",")})`;
  }

  const shown = (p) => {
    const f = sb.state.filter || {};
    return (!f.kind || f.kind === p.class) && (!f.scene || f.scene === p.scene) && p.score >= (f.min_score || 0);
  };

  function centre(f) {
    const p = f.properties;
    if (typeof p.lon === "number" && typeof p.lat === "number") return [p.lat, p.lon];
    const c = L.geoJSON(f).getBounds().getCenter();
    return [c.lat, c.lng];
  }

  function draw() {
    outlines.clearLayers();
    points.clearLayers();
    const list = features.filter((f) => shown(f.properties));
    const close = map.getZoom() >= OUTLINE_ZOOM;
    if (close) outlines.addData({ type: "FeatureCollection", features: list });
    for (const f of list) {
      const p = f.properties;
      const dot = L.circleMarker(f.centre, { radius: close ? 3 : 4.5, weight: 1, color: "#fff", fillColor: tint(p.score), fillOpacity: 0.95, pane: "found" });
      dot.on("click", (e) => { L.DomEvent.stopPropagation(e); sb.emit({ kind: "mark", scene: p.scene, n: p.n }); });
      const text = sb.el("span", "", `${p.label || p.class}, score ${p.score.toFixed(2)}${p.synthetic ? ", synthetic" : ""}`);
      dot.bindTooltip(text, { direction: "top" });
      points.addLayer(dot);
    }
    document.documentElement.dataset.detections = String(list.length);
  }

  function fetchAll(next) {
    url = next;
    const mine = ++asked;
    if (!next) { features = []; return draw(); }
    fetch(next, { credentials: "same-origin" })
      .then((r) => { if (!r.ok) throw new Error(r.status); return r.json(); })
      .then((data) => {
        if (mine !== asked) return;
        features = data.features.filter((f) => f.geometry);
        for (const f of features) f.centre = centre(f);
        draw();
      })
      .catch(() => { document.documentElement.dataset.detections = "failed"; });
  }

  function setMark(m, before) {
    if (JSON.stringify(m) === JSON.stringify(before)) return;
    mark.clearLayers();
    document.documentElement.dataset.mark = m ? `${m.scene}/${m.n}` : "";
    if (!m) return;
    // White below blue: to be seen on every image.
    const ring = { radius: 18, fill: false, pane: "mark", interactive: false };
    mark.addLayer(L.circleMarker([m.lat, m.lon], { ...ring, color: "#fff", weight: 7, opacity: 0.9 }));
    mark.addLayer(L.circleMarker([m.lat, m.lon], { ...ring, color: "#0877c9", weight: 3 }));
    map.setView([m.lat, m.lon], Math.max(map.getZoom(), 12), { animate: true });
  }

  sb.part({
    attach(m) {
      map = m;
      for (const [name, z] of [["outline", 440], ["found", 450], ["mark", 460]]) map.createPane(name).style.zIndex = z;
      map.getPane("mark").style.pointerEvents = "none";
      map.getPane("outline").style.pointerEvents = "none";
      outlines = L.geoJSON(null, {
        interactive: false, renderer: L.canvas({ pane: "outline" }), pane: "outline",
        style: (f) => ({ color: tint(f.properties.score), weight: 1.6, fillOpacity: 0.15 }),
      }).addTo(map);
      points = L.layerGroup().addTo(map);
      mark = L.layerGroup().addTo(map);
      let close = null;
      map.on("zoomend", () => {
        const now = map.getZoom() >= OUTLINE_ZOOM;
        if (features.length && now !== close) draw();
        close = now;
      });
    },
    apply(state, before) {
      if ((state.detections || null) !== url) fetchAll(state.detections || null);
      else if (JSON.stringify(state.filter) !== JSON.stringify(before.filter)) draw();
      setMark(state.mark || null, before.mark || null);
    },
    theme() { if (points) draw(); },
  });
})();
