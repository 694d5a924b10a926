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
  const MARK_ZOOM = 17; // no closer than that, pixels of 8 m are large there
  const SEEN_PX = 10; // from here on an object is seen itself: nothing lies on it any more
  const LINE_PX = 1.5, HALO_PX = 1.5, GAP_PX = 1.5;
  const RING = "#0877c9";
  let map, outlines, points, mark, legend;
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

  /** Strokes beside what they go around, never over it: a thin line with a white one around. */
  const Beside = L.Canvas.extend({
    _fillStroke(ctx, layer) {
      ctx.save();
      ctx.lineJoin = "round";
      for (const [width, colour] of [[GAP_PX + LINE_PX + HALO_PX, "#fff"], [GAP_PX + LINE_PX, layer.options.color]]) {
        ctx.lineWidth = 2 * width;
        ctx.strokeStyle = colour;
        ctx.stroke();
      }
      ctx.globalCompositeOperation = "destination-out"; // what lies within is cut out again
      ctx.lineWidth = 2 * GAP_PX;
      ctx.stroke();
      ctx.fill("evenodd");
      ctx.restore();
    },
  });

  /** (west, south, east, north) of a feature, east beyond 180 where it crosses the antimeridian. */
  function boxOf(f) {
    let w = 999, s = 99, e = -999, n = -99;
    const walk = (c) => {
      if (typeof c[0] !== "number") return c.forEach(walk);
      w = Math.min(w, c[0]); e = Math.max(e, c[0]); s = Math.min(s, c[1]); n = Math.max(n, c[1]);
    };
    walk(f.geometry.coordinates);
    return e - w > 180 ? [e, s, w + 360, n] : [w, s, e, n];
  }

  /** Width and height of a box on the screen, pixels. */
  function sizeOf([w, s, e, n]) {
    const perDegree = (256 * 2 ** map.getZoom()) / 360;
    const east = e < w ? e + 360 : e;
    return [(east - w) * perDegree, ((n - s) * perDegree) / Math.cos((((s + n) / 2) * Math.PI) / 180)];
  }

  /** A dot where an object is too small to be seen; else its place for clicks, and no colour. */
  function dotStyle(f, close) {
    const size = Math.max(...sizeOf(f.box));
    const seen = close && size >= SEEN_PX;
    const paint = seen ? { opacity: 0, fillOpacity: 0 } : { opacity: 1, fillOpacity: 0.95 };
    return { ...paint, radius: seen ? Math.max(SEEN_PX, size / 2) : close ? 3 : 4.5 };
  }

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
      const dot = L.circleMarker(f.centre, { ...dotStyle(f, close), weight: 1, color: "#fff", fillColor: tint(p.score), pane: "found" });
      dot.on("click", (e) => { L.DomEvent.stopPropagation(e); sb.emit({ kind: "mark", scene: p.scene, n: p.n }); });
      const text = sb.el("span", "", `${p.label || p.class}, score ${p.score.toFixed(2)}${p.synthetic ? ", synthetic" : ""}`);
      dot.bindTooltip(text, { direction: "top" });
      dot.feature = f;
      points.addLayer(dot);
    }
    drawLegend();
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
        for (const f of features) { f.centre = centre(f); f.box = boxOf(f); }
        draw();
      })
      .catch(() => { if (mine === asked) document.documentElement.dataset.detections = "failed"; });
  }

  function setMark(m, before, fly) {
    if (JSON.stringify(m) === JSON.stringify(before)) return;
    mark.clearLayers();
    document.documentElement.dataset.mark = m ? `${m.scene}/${m.n}` : "";
    if (!m) return;
    const [w, s, e, n] = m.box;
    const at = [(s + n) / 2, (w + (e < w ? e + 360 : e)) / 2];
    // White below blue: to be seen on every image.
    const ring = { radius: ringPx(m), fill: false, pane: "mark", interactive: false };
    mark.addLayer(L.circleMarker(at, { ...ring, color: "#fff", weight: 4.5, opacity: 0.9 }));
    mark.addLayer(L.circleMarker(at, { ...ring, color: RING, weight: 2 }));
    sb.show(m.view, MARK_ZOOM, fly);
  }

  /** The ring goes around the object and its outline, with room between. */
  const ringPx = (m) => Math.max(18, Math.hypot(...sizeOf(m.box)) / 2 + 12);

  function drawLegend() {
    const box = legend.getContainer();
    box.replaceChildren();
    box.hidden = !features.length;
    const { low, high } = COLOURS[sb.theme];
    const row = (name, style) => {
      const line = sb.el("span", "sb-legend-row"), swatch = sb.el("i");
      Object.assign(swatch.style, style);
      line.append(swatch, name);
      box.append(line);
    };
    row("score 0 to 1", { width: "44px", background: `linear-gradient(to right, rgb(${low}), rgb(${high}))` });
    if (sb.state.mark) row("marked", { width: "12px", height: "12px", border: `2px solid ${RING}`, borderRadius: "50%" });
    for (const synthetic of [false, true]) {
      if (!(sb.state.chosen || []).some((f) => Boolean(f.properties.synthetic) === synthetic)) continue;
      row(synthetic ? "synthetic scene" : "scene", { border: `2px ${synthetic ? "dashed" : "solid"} ${sb.chosenColour()}` });
    }
  }

  sb.part({
    attach(m) {
      map = m;
      for (const [name, z] of [["outline", 440], ["found", 450], ["mark", 460]]) map.createPane(name).style.zIndex = z;
      map.getPane("mark").style.pointerEvents = "none";
      map.getPane("outline").style.pointerEvents = "none";
      outlines = L.geoJSON(null, {
        interactive: false, renderer: new Beside({ pane: "outline" }), pane: "outline",
        style: (f) => ({ color: tint(f.properties.score), weight: 2 * (GAP_PX + LINE_PX + HALO_PX) }),
      }).addTo(map);
      points = L.layerGroup().addTo(map);
      mark = L.layerGroup().addTo(map);
      legend = L.control({ position: "bottomright" });
      legend.onAdd = () => sb.el("div", "sb-legend");
      legend.addTo(map);
      legend.getContainer().hidden = true;
      let close = null;
      map.on("zoomend", () => {
        const now = map.getZoom() >= OUTLINE_ZOOM;
        if (features.length && now !== close) draw();
        else if (now) points.eachLayer((dot) => { const style = dotStyle(dot.feature, now); if (style.radius !== dot.getRadius()) dot.setStyle(style); });
        close = now;
        if (sb.state.mark) mark.eachLayer((ring) => ring.setRadius(ringPx(sb.state.mark)));
      });
    },
    apply(state, before) {
      if ((state.detections || null) !== url) fetchAll(state.detections || null);
      else if (JSON.stringify(state.filter) !== JSON.stringify(before.filter)) draw();
      setMark(state.mark || null, before.mark || null, Boolean(before.view));
      drawLegend();
    },
    again() { if (document.documentElement.dataset.detections === "failed") fetchAll(url); },
    theme() { if (points) draw(); },
  });
})();
