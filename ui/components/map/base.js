// The world below everything: countries of Natural Earth, finer as one comes closer,
// and a graticule. All of it is drawn by the browser from files of the portal.
(function () {
  "use strict";
  const sb = window.sceneBridge;
  const COLOURS = {
    light: { land: "#f4f2ec", border: "#c3c8c4", coast: "#93a9b5", line: "#b4cbd8" },
    dark: { land: "#24313a", border: "#3c4e5a", coast: "#54707f", line: "#2b4657" },
  };
  const LEVELS = [
    { zoom: 0, url: "/assets/world/countries-110m.json" },
    { zoom: 4, url: "/assets/world/countries-50m.json" },
    { zoom: 7, url: "/assets/world/countries-10m.json", clip: true },
  ];
  let map, renderer, land, lines;
  let shown = null; // the level on the map
  let around = null; // the bounds for which a clipped level was drawn

  const landStyle = () => {
    const c = COLOURS[sb.theme];
    return { fillColor: c.land, fillOpacity: 1, color: c.border, weight: 0.7, opacity: 1 };
  };

  /** Fetch and unpack a level once: a list of {polygon, bounds}. */
  function load(level) {
    level.loading = level.loading || fetch(level.url).then((r) => r.json()).then((topology) => {
      const all = window.topojson.feature(topology, topology.objects.countries);
      const polygons = [];
      for (const f of all.features) {
        const g = f.geometry;
        if (!g) continue;
        for (const p of g.type === "Polygon" ? [g.coordinates] : g.coordinates) {
          const rings = p.map(unwrap);
          polygons.push({ rings, bounds: boundsOf(rings[0]) });
        }
      }
      return [...polygons, ...beyond(polygons, level.zoom === 0 ? 0 : 100)];
    }).catch(() => {
      level.loading = null; // the next look asks again
      return null;
    });
    return level.loading;
  }

  /** Follow a ring across the antimeridian instead of jumping back over the whole world. */
  function unwrap(ring) {
    let turn = 0, before = ring[0][0];
    const out = ring.map(([x, y]) => {
      if (x - before > 180) turn -= 360;
      if (x - before < -180) turn += 360;
      before = x;
      return [x + turn, y];
    });
    return turn === 0 ? out : ring; // around a pole: Antarctica is closed along its edge
  }

  /** Copies beside the world, so that a view across the antimeridian is not half empty. */
  function beyond(polygons, from) {
    const copy = (p, by) => {
      const rings = p.rings.map((r) => r.map(([x, y]) => [x + by, y]));
      return { rings, bounds: boundsOf(rings[0]) };
    };
    return [
      ...polygons.filter((p) => p.bounds.getEast() > from).map((p) => copy(p, -360)),
      ...polygons.filter((p) => p.bounds.getWest() < -from).map((p) => copy(p, 360)),
    ];
  }

  function boundsOf(ring) {
    let w = 999, s = 90, e = -999, n = -90;
    for (const [x, y] of ring) {
      if (x < w) w = x;
      if (x > e) e = x;
      if (y < s) s = y;
      if (y > n) n = y;
    }
    return L.latLngBounds([s, w], [n, e]);
  }

  async function refresh() {
    const zoom = map.getZoom();
    const level = [...LEVELS].reverse().find((l) => zoom >= l.zoom);
    const stale = level.clip && !(around && around.contains(map.getBounds()));
    if (level === shown && !stale) return;
    const polygons = await load(level);
    if (!polygons) { document.documentElement.dataset.land = "failed"; return; }
    if (zoom !== map.getZoom()) return; // moved on; the newer call draws
    shown = level;
    around = level.clip ? map.getBounds().pad(1) : null;
    const part = around ? polygons.filter((p) => p.bounds.intersects(around)) : polygons;
    land.clearLayers();
    land.addData({
      type: "MultiPolygon",
      coordinates: part.map((p) => p.rings),
    });
    document.documentElement.dataset.land = level.url;
  }

  function graticule() {
    const zoom = map.getZoom();
    const step = zoom < 4 ? 30 : zoom < 6 ? 10 : zoom < 8 ? 5 : 1;
    if (lines.step === step && step > 1) return;
    lines.step = step;
    lines.clearLayers();
    const b = map.getBounds().pad(1);
    const far = step > 1;
    const west = far ? -540 : Math.floor(b.getWest()), east = far ? 540 : b.getEast();
    const south = far ? -80 : Math.floor(b.getSouth()), north = far ? 80 : b.getNorth();
    const style = { color: COLOURS[sb.theme].line, weight: 0.6, opacity: 0.8, interactive: false, renderer };
    for (let x = west; x <= east; x += step) lines.addLayer(L.polyline([[-85, x], [85, x]], style));
    for (let y = south; y <= north; y += step) lines.addLayer(L.polyline([[y, -540], [y, 540]], style));
  }

  sb.part({
    attach(m) {
      map = m;
      map.createPane("land").style.zIndex = 150;
      map.getPane("land").style.pointerEvents = "none";
      renderer = L.canvas({ pane: "land", padding: 0.6 });
      lines = L.layerGroup().addTo(map);
      land = L.geoJSON(null, { style: landStyle, interactive: false, renderer, pane: "land" }).addTo(map);
      L.control.scale({ imperial: false, maxWidth: 120 }).addTo(map);
      map.attributionControl.addAttribution("Natural Earth");
      map.on("moveend", () => { refresh(); graticule(); });
      refresh();
      graticule();
    },
    again: () => refresh(),
    theme() {
      if (!land) return;
      land.setStyle(landStyle());
      lines.step = null;
      graticule();
      land.bringToFront();
    },
  });
})();
