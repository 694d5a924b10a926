// Footprints of the search, the chosen scenes on top of them, and the area of the filter.
// The footprints are fetched by the browser; a click is answered here at once and told
// to the page, which confirms it with the next state.
(function () {
  "use strict";
  const sb = window.sceneBridge;
  const COLOURS = {
    light: { "landsat": "#1d6fb8", "formosat": "#0b8a6a", "other": "#7a55b5", "chosen": "#d9480f", "area": "#5b6b76" },
    dark: { "landsat": "#6db9f2", "formosat": "#4fd0a5", "other": "#bb9af0", "chosen": "#ff9a4d", "area": "#a9bac5" },
  };
  const NAMES = { landsat: "Landsat", formosat: "FORMOSAT", other: "Other" };
  const SMALL_PX = 12; // a footprint that is smaller on the screen is drawn as a dot as well
  let map, base, dots, chosen, area, legend, hover;
  let features = []; // {feature, id, w, s, e, n} of the search, as fetched
  let known = new Map(); // id -> feature, of the search and of the choice
  let picked = new Set(); // what the user sees as chosen
  let url = null, asked = 0, drawing = false, tiles = new Map();

  const family = (f) => {
    const p = (f.properties.platform || "").toLowerCase();
    return p.startsWith("landsat") ? "landsat" : p.startsWith("formosat") ? "formosat" : "other";
  };
  const colour = (name) => COLOURS[sb.theme][name];
  sb.chosenColour = () => colour("chosen");
  const baseStyle = (f) => ({
    color: colour(family(f)), weight: 1.2, fillOpacity: 0.06, opacity: 0.85,
    dashArray: f.properties.synthetic ? "5 4" : null,
  });
  const chosenStyle = (f) => ({
    color: colour("chosen"), weight: 2.6, fillOpacity: tiles.size ? 0 : 0.12,
    dashArray: f.properties.synthetic ? "7 4" : null,
  });

  function boxOf(geometry) {
    let w = 999, s = 99, e = -999, n = -99;
    const walk = (c) => {
      if (typeof c[0] !== "number") return c.forEach(walk);
      w = Math.min(w, c[0]); e = Math.max(e, c[0]); s = Math.min(s, c[1]); n = Math.max(n, c[1]);
    };
    walk(geometry.coordinates);
    return { w, s, e, n };
  }

  function fetchFootprints(next) {
    url = next;
    const mine = ++asked;
    document.documentElement.dataset.footprints = "loading";
    if (!next) return draw({ features: [] });
    fetch(next, { credentials: "same-origin" })
      .then((r) => { if (!r.ok) throw new Error(r.status); return r.json(); })
      .then((data) => { if (mine === asked) draw(data); })
      .catch(() => { if (mine === asked) { document.documentElement.dataset.footprints = "failed"; note("The footprints could not be loaded."); } });
  }

  function draw(data) {
    features = data.features.filter((f) => f.geometry).map((feature) => ({ feature, id: feature.properties.id, ...boxOf(feature.geometry) }));
    base.clearLayers();
    base.addData(data);
    note(null);
    remember();
    drawDots();
    if (!sb.state.view && !sb.looked && features.length) { sb.looked = true; lookAtAll(); }
    drawLegend();
    document.documentElement.dataset.footprints = String(features.length);
  }

  function lookAtAll() {
    let [w, s, e, n] = [180, 90, -180, -90];
    for (const f of features) { w = Math.min(w, f.w); s = Math.min(s, f.s); e = Math.max(e, f.e); n = Math.max(n, f.n); }
    sb.show([w, s, e, n], 7);
  }

  /** Degrees per pixel at this zoom, along a parallel at the equator. */
  const degreesPerPixel = () => 360 / (256 * 2 ** map.getZoom());
  const isSmall = (f) => Math.max(f.e - f.w, f.n - f.s) < SMALL_PX * degreesPerPixel();

  function dot(f, tint, radius, pane) {
    const at = [(f.s + f.n) / 2, (f.w + f.e) / 2];
    return L.circleMarker(at, { radius, weight: 1.5, color: "#fff", fillColor: tint, fillOpacity: 0.95, interactive: false, ...pane });
  }

  function drawDots() {
    dots.clearLayers();
    for (const f of features) if (isSmall(f)) dots.addLayer(dot(f, colour(family(f.feature)), 4.5, {}));
  }

  function remember() {
    known = new Map();
    for (const c of sb.state.chosen || []) known.set(c.properties.id, c);
    for (const f of features) known.set(f.id, f.feature);
    drawChosen();
  }

  function drawChosen() {
    chosen.clearLayers();
    for (const id of picked) {
      if (!known.has(id)) continue;
      const f = known.get(id), box = boxOf(f.geometry);
      chosen.addData(f);
      if (isSmall(box)) chosen.addLayer(dot(box, colour("chosen"), 6, { pane: "chosen", renderer: chosen.options.renderer }));
    }
    document.documentElement.dataset.chosen = [...picked].join(" ");
  }

  function inRing(x, y, ring) {
    let inside = false;
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
      const [xi, yi] = ring[i], [xj, yj] = ring[j];
      if ((yi > y) !== (yj > y) && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  }

  function covers(geometry, x, y) {
    const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.type === "MultiPolygon" ? geometry.coordinates : [];
    return polygons.some((p) => inRing(x, y, p[0]) && !p.slice(1).some((hole) => inRing(x, y, hole)));
  }

  /** All scenes below a point, newest first. */
  function below(latlng) {
    const { lng: x, lat: y } = latlng.wrap();
    const slack = 7 * degreesPerPixel(); // around what is drawn as a dot
    const hit = (f) => {
      if (isSmall(f)) return Math.abs(x - (f.w + f.e) / 2) < slack && Math.abs(y - (f.s + f.n) / 2) < slack;
      return x >= f.w && x <= f.e && y >= f.s && y <= f.n && covers(f.feature.geometry, x, y);
    };
    const found = features.filter(hit).map((f) => f.feature);
    for (const c of sb.state.chosen || []) {
      if (!found.some((f) => f.properties.id === c.properties.id) && hit({ feature: c, ...boxOf(c.geometry) })) found.push(c);
    }
    return found.sort((a, b) => (a.properties.time < b.properties.time ? 1 : -1));
  }

  function toggle(id) {
    if (picked.has(id)) picked.delete(id); else picked.add(id);
    drawChosen();
    sb.emit({ kind: "toggle", id, on: picked.has(id) });
  }

  /** A list to choose from where footprints overlap. */
  function offer(latlng, found) {
    const box = sb.el("div", "sb-choose");
    box.append(sb.el("p", "sb-choose-head", `${found.length} scenes here`));
    const list = sb.el("ul");
    for (const f of found.slice(0, 60)) {
      const p = f.properties;
      const label = sb.el("label");
      const tick = sb.el("input");
      tick.type = "checkbox";
      tick.checked = picked.has(p.id);
      tick.onchange = () => toggle(p.id);
      const text = sb.el("span", "sb-choose-text");
      text.append(sb.el("b", "", `${sb.day(p.time)}`), ` ${p.title}`, sb.el("small", "", ` ${sb.cloud(p.cloud)}`));
      if (p.synthetic) text.append(sb.el("span", "sb-tag", "synthetic"));
      label.append(tick, text);
      const row = sb.el("li");
      row.append(label);
      list.append(row);
    }
    if (found.length > 60) box.append(sb.el("p", "", "Narrow the search to see the others."));
    box.append(list);
    L.popup({ maxWidth: 340, minWidth: 240, autoPanPadding: [20, 20] }).setLatLng(latlng).setContent(box).openOn(map);
  }

  function clicked(e) {
    if (drawing || !sb.state.pick) return;
    const found = below(e.latlng);
    if (found.length === 1) toggle(found[0].properties.id);
    else if (found.length > 1) offer(e.latlng, found);
  }

  let frame = 0;
  function moved(e) {
    if (frame || drawing || !sb.state.pick) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      const found = below(e.latlng);
      map.getContainer().style.cursor = found.length ? "pointer" : "";
      if (!found.length) return map.closeTooltip(hover);
      const p = found[0].properties;
      const text = sb.el("span", "", `${p.title}${p.synthetic && !/synthetic/i.test(p.title) ? " (synthetic)" : ""}`);
      text.append(sb.el("br"), `${sb.day(p.time)}, ${sb.cloud(p.cloud)}`);
      if (found.length > 1) text.append(sb.el("br"), `and ${found.length - 1} more here`);
      hover.setLatLng(e.latlng).setContent(text);
      map.openTooltip(hover);
    });
  }

  function drape(list) {
    const want = new Map((list || []).map((d) => [d.id, d]));
    for (const [id, layer] of tiles) if (!want.has(id)) { layer.remove(); tiles.delete(id); }
    for (const [id, d] of want) {
      if (tiles.has(id)) continue;
      const [w, s, e, n] = d.bbox;
      const layer = L.tileLayer(`/api/scenes/${encodeURIComponent(id)}/tiles/{z}/{x}/{y}.webp`, {
        bounds: [[s, w], [n, e < w ? e + 360 : e]], pane: "imagery", maxNativeZoom: d.max_zoom || 14, maxZoom: 18,
        errorTileUrl: "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==",
      });
      layer.on("tileerror", () => { layer.lacks = true; });
      tiles.set(id, layer.addTo(map));
    }
    drawChosen();
  }

  function drawArea(geometry) {
    area.clearLayers();
    if (geometry) area.addData(geometry);
  }

  function finishedDrawing(e) {
    const geometry = e.layer.toGeoJSON().geometry;
    setTimeout(() => { if (window.drawnItems && window.drawnItems.clearLayers) window.drawnItems.clearLayers(); }, 0);
    drawArea(geometry);
    sb.emit({ kind: "area", rectangle: e.layerType === "rectangle", ring: geometry.coordinates[0] });
  }

  function drawLegend() {
    const box = legend.getContainer();
    box.replaceChildren();
    const families = [...new Set(features.map((f) => family(f.feature)))].sort();
    const rows = families.map((f) => [NAMES[f], colour(f), "solid"]);
    if (features.some((f) => f.feature.properties.synthetic)) rows.push(["Synthetic", colour("area"), "dashed"]);
    if (sb.state.pick && rows.length) rows.push(["Chosen", colour("chosen"), "solid"]);
    for (const [name, tint, kind] of rows) {
      const row = sb.el("span", "sb-legend-row");
      const mark = sb.el("i");
      mark.style.border = `2px ${kind} ${tint}`;
      row.append(mark, name);
      box.append(row);
    }
    box.hidden = !rows.length;
  }

  const noteBox = sb.el("div", "sb-note");
  function note(text) {
    noteBox.textContent = text || "";
    noteBox.hidden = !text;
  }

  sb.part({
    attach(m) {
      map = m;
      map.createPane("imagery").style.zIndex = 300;
      map.getPane("imagery").style.pointerEvents = "none";
      map.createPane("chosen").style.zIndex = 420;
      map.getPane("chosen").style.pointerEvents = "none";
      base = L.geoJSON(null, { style: baseStyle, interactive: false }).addTo(map);
      dots = L.layerGroup().addTo(map);
      map.on("zoomend", () => { drawDots(); drawChosen(); });
      area = L.geoJSON(null, { interactive: false, style: () => ({ color: colour("area"), weight: 1.5, dashArray: "2 5", fillOpacity: 0.04 }) }).addTo(map);
      chosen = L.geoJSON(null, { style: chosenStyle, interactive: false, pane: "chosen", renderer: L.canvas({ pane: "chosen" }) }).addTo(map);
      hover = L.tooltip({ direction: "top", offset: [0, -8], opacity: 0.95, className: "sb-hover" });
      legend = L.control({ position: "bottomright" });
      legend.onAdd = () => sb.el("div", "sb-legend");
      legend.addTo(map);
      legend.getContainer().hidden = true;
      note(null);
      map.getContainer().append(noteBox);
      map.on("click", clicked);
      map.on("mousemove", moved);
      map.on("mouseout", () => map.closeTooltip(hover));
      map.on("draw:drawstart", () => { drawing = true; map.closeTooltip(hover); });
      map.on("draw:drawstop", () => setTimeout(() => { drawing = false; }, 50));
      map.on("draw:created", finishedDrawing);
    },
    apply(state) {
      if (sb.settled(state)) picked = new Set((state.chosen || []).map((c) => c.properties.id));
      if ((state.footprints || null) !== url) fetchFootprints(state.footprints || null);
      remember();
      drape(state.drape);
      if (sb.settled(state)) drawArea(state.area);
    },
    again() {
      if (document.documentElement.dataset.footprints === "failed") fetchFootprints(url);
      for (const layer of tiles.values()) {
        if (!layer.lacks) continue;
        layer.lacks = false;
        layer.redraw();
      }
    },
    theme() {
      if (!base) return;
      base.setStyle(baseStyle);
      drawDots();
      drawChosen();
      area.setStyle({ color: colour("area") });
      drawLegend();
    },
  });
})();
