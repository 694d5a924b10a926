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
          polygons.push({ rings: p, bounds: boundsOf(p[0]) });
        }
      }
      return polygons;
    });
    return level.loading;
  }

  function boundsOf(ring) {
    let w = 180, s = 90, e = -180, n = -90;
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
    const west = far ? -180 : Math.floor(b.getWest()), east = far ? 180 : b.getEast();
    const south = far ? -80 : Math.floor(b.getSouth()), north = far ? 80 : b.getNorth();
    const style = { color: COLOURS[sb.theme].line, weight: 0.6, opacity: 0.8, interactive: false, renderer };
    for (let x = west; x <= east; x += step) lines.addLayer(L.polyline([[-85, x], [85, x]], style));
    for (let y = south; y <= north; y += step) lines.addLayer(L.polyline([[y, -180], [y, 180]], style));
  }

  sb.part({
    attach(m) {
      map = m;
      map.createPane("land").style.zIndex = 150;
      map.getPane("land").style.pointerEvents = "none";
      renderer = L.canvas({ pane: "land", padding: 0.6 });
      lines = L.layerGroup().addTo(map);
      land = L.geoJSON(null, { style: landStyle, interactive: false, renderer, pane: "land" }).addTo(map);
      map.attributionControl.addAttribution("Natural Earth");
      map.on("moveend", () => { refresh(); graticule(); });
      refresh();
      graticule();
    },
    theme() {
      if (!land) return;
      land.setStyle(landStyle());
      lines.step = null;
      graticule();
      land.bringToFront();
    },
  });
})();
