"""The catalogues of modules and clusters: what a user can choose, as data.

`catalogs/modules/*.toml` says which modules are offered; each is described by
`modules/NAME/module.toml`. `catalogs/clusters/*.toml` has one file per cluster. What a
cluster really offers comes from its gate, never from here.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lib.config.clusters import ClusterEntry, cluster_of, read_cluster
from lib.config.json_schema import faults, schema_fault
from lib.config.site_paths import site_folder
from lib.errors import InvalidInput, NotFound
from lib.model import (
    ClusterId,
    Fit,
    JsonObject,
    JsonValue,
    Module,
    ModuleId,
    SensorNeed,
    json_object,
)
from lib.protocol.messages import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lib.config.settings import Settings
    from lib.model import Scene

#: Title of every platform that a scene can be of.
PLATFORMS = {"landsat-8": "Landsat 8", "formosat-2": "FORMOSAT-2", "formosat-5": "FORMOSAT-5"}
#: So many parameters that are wrong are named at once.
_MOST_FAULTS = 3
#: Of the computer of a portal that got its first cluster file.
_WITHHELD = (
    "“{title}” is not offered beside other clusters: work there runs without isolation, and could "
    "read this portal's keys to them. To offer it all the same, write "
    'embedded_groups = ["everyone"] into settings.toml and start the portal again.'
)


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A cluster file that is not taken: `fault` is a sentence with the file and the line."""

    cluster: ClusterId
    file: Path
    fault: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A cluster that is shown and not offered: as it was last known, and why.

    `fault` is what is wrong with its file, for whoever can mend it; "" where there is none.
    """

    entry: ClusterEntry
    reason: str
    fault: str


@dataclass(slots=True)
class Offerings:
    """All modules and clusters that this portal offers, by id; and by collection the
    groups that may read its scenes ("everyone" is one). `withheld`: what people who know this
    installation may miss, and why it is not offered; a sentence or empty. `broken`: cluster
    files that cannot be taken, each of which costs its own cluster alone. `left_out`: those of
    them, and of clusters whose file is gone, that are shown.

    What concerns clusters changes while a portal runs (`take_over`), each part of it at once;
    everything else stays.
    """

    modules: Mapping[ModuleId, Module]
    clusters: Mapping[ClusterId, ClusterEntry]
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    withheld: str = ""
    broken: tuple[BrokenFile, ...] = ()
    left_out: Mapping[ClusterId, LeftOut] = field(default_factory=dict)

    def module(self, module_id: ModuleId) -> Module:
        """Raises NotFound."""
        if module_id not in self.modules:
            raise NotFound(f"There is no module {module_id!r:.60} in this portal.")
        return self.modules[module_id]

    def cluster(self, cluster_id: ClusterId) -> ClusterEntry:
        """Raises NotFound."""
        entry = self.clusters.get(cluster_id)
        if entry is None:
            raise NotFound(f"There is no cluster {cluster_id!r:.60} in this portal.")
        return entry

    def configured(self, cluster_id: ClusterId) -> ClusterEntry:
        """The same for whoever looks after its file.

        Raises:
            InvalidInput: the file is broken; the sentence says where.
        """
        for broken in self.broken:
            if broken.cluster == cluster_id and cluster_id not in self.clusters:
                raise InvalidInput(broken.fault)
        return self.cluster(cluster_id)

    def take_over(self, new: Offerings) -> None:
        """Offer the clusters of `new`. No reader misses one that only moves to `left_out`."""
        self.left_out = {**self.left_out, **new.left_out}
        self.clusters = new.clusters
        self.left_out = new.left_out
        self.broken = new.broken
        self.withheld = new.withheld


def load_offerings(project: Path) -> Offerings:
    """Read the catalogues of the project folder, and the site's own clusters.

    Raises:
        InvalidInput: a file of a module or a collection breaks the rules; the sentence names it.
    """
    modules = {}
    for offer in sorted((project / "catalogs" / "modules").glob("*.toml")):
        module_id = _text(_toml(offer), "module", offer)
        module = _module(project / "modules" / module_id.replace("-", "_") / "module.toml")
        if module.id != module_id:
            raise InvalidInput(f"{offer.name} offers {module_id}, but the module is {module.id}.")
        modules[module.id] = module
    clusters, broken = load_clusters(project)
    readers = {}
    for file in sorted((project / "catalogs").glob("*/collection.json")):
        collection, groups = _readers(file)
        readers[collection] = groups
    return Offerings(modules, clusters, readers, broken=broken)


def load_clusters(
    project: Path,
) -> tuple[dict[ClusterId, ClusterEntry], tuple[BrokenFile, ...]]:
    """Those that can be taken, and the files that cannot. Of two of one id the first counts."""
    clusters: dict[ClusterId, ClusterEntry] = {}
    broken = []
    for file in _cluster_files(project):
        try:
            entry = read_cluster(file)
            if entry.id in clusters:
                known = clusters[entry.id].file
                raise InvalidInput(f"{file} describes {entry.id}, as {known} does.")
        except InvalidInput as exc:
            broken.append(BrokenFile(cluster_of(file), file, exc.message))
        else:
            clusters[entry.id] = entry
    return clusters, tuple(broken)


def cluster_files(project: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """What differs once a cluster file was added, changed or removed."""
    found = []
    for file in _cluster_files(project):
        try:
            status = file.stat()
        except OSError:
            found.append((str(file), 0, 0, 0, 0))
        else:
            seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            found.append((str(file), *seen))
    return tuple(found)


def _cluster_files(project: Path) -> list[Path]:
    """The project's own, and the site's."""
    folders = project / "catalogs" / "clusters", site_folder() / "clusters"
    return [file for folder in folders for file in sorted(folder.glob("*.toml"))]


def offered(offerings: Offerings, settings: Settings) -> Offerings:
    """What a portal with these settings offers: its own computer only to whom they say.

    Jobs of the embedded cluster run without isolation under the portal's own account, and
    that account's keys lead to every other cluster: so only the portal of one person that
    has no other cluster offers it unasked.
    """
    # A file that cannot be taken may be another cluster's, whose key lies here already.
    alone = not offerings.broken and all(entry.embedded for entry in offerings.clusters.values())
    if settings.single_user and alone:
        return offerings
    clusters = {
        entry.id: replace(entry, groups=settings.embedded_groups) if entry.embedded else entry
        for entry in offerings.clusters.values()
        if settings.embedded_groups or not entry.embedded
    }
    missed = [e.title for e in offerings.clusters.values() if e.id not in clusters]
    withheld = _WITHHELD.format(title=missed[0]) if missed and settings.single_user else ""
    return replace(offerings, clusters=clusters, withheld=withheld)


def fit(module: Module, scenes: Sequence[Scene]) -> Fit:
    """Whether `module` can work on all `scenes`; reasons name the scenes and bands."""
    reasons = []
    by_platform = {need.platform: need for need in module.needs}
    wanted = " or ".join(PLATFORMS.get(p, p) for p in by_platform)
    for scene in scenes:
        need = by_platform.get(scene.platform)
        if need is None:
            platform = PLATFORMS.get(scene.platform, scene.platform)
            reasons.append(f"{scene.id} is {platform}; the module reads {wanted}.")
            continue
        missing = [band for band in need.bands if band not in scene.bands]
        if missing:
            noun = "the bands" if len(missing) > 1 else "the band"
            reasons.append(f"{scene.id} lacks {noun} {', '.join(missing)}.")
        if need.levels and scene.level not in need.levels:
            reasons.append(
                f"{scene.id} is level {scene.level or 'unknown'}; "
                f"the module needs {' or '.join(need.levels)}."
            )
    return Fit(module, tuple(reasons))


def complete_params(module: Module, params: JsonObject) -> dict[str, JsonValue]:
    """`params` checked against the module's schema, with defaults filled in.

    Raises:
        InvalidInput: which parameters are wrong, and what they may be.
    """
    properties = _properties(module)
    unknown = sorted(set(params) - set(properties))
    if unknown:
        raise InvalidInput(
            f"{module.title} has no parameter {unknown[0]!r:.60}. "
            f"It has: {', '.join(sorted(properties)) or 'none'}."
        )
    complete = {name: spec["default"] for name, spec in properties.items() if "default" in spec}
    complete.update(params)
    wrong = faults(module.params_schema, complete)[:_MOST_FAULTS]
    if wrong:
        raise InvalidInput(" ".join(_fault_text(properties, *fault) for fault in wrong))
    return complete


def _fault_text(properties: Mapping[str, JsonObject], path: str, what: str) -> str:
    if not path:
        return f"The parameters are not right: {what}."
    title = properties.get(path, {}).get("title", path)
    return f"The parameter “{title}” is not right: {what}."


def _properties(module: Module) -> dict[str, JsonObject]:
    """The schema of each of a module's parameters, by its name."""
    properties = json_object(module.params_schema.get("properties", {}))
    return {name: json_object(schema) for name, schema in properties.items()}


def _module(file: Path) -> Module:
    data = _toml(file)
    schema = _table(data.get("params", {}), "params", file)
    fault = schema_fault(schema)
    if fault is not None:
        raise InvalidInput(f"{file}: params is not a JSON Schema: {fault}")
    needs = data.get("needs", [])
    if not isinstance(needs, list):
        raise InvalidInput(f"{file} needs a list of tables for 'needs'.")
    return Module(
        id=ModuleId(_name(data, "id", file)),
        version=_text(data, "version", file),
        title=_text(data, "title", file),
        summary=_text(data, "summary", file),
        image=_text(data, "image", file),
        needs=tuple(
            SensorNeed(
                _text(need, "platform", file),
                _texts(need, "bands", file),
                _texts(need, "levels", file),
            )
            for need in (_table(need, "needs", file) for need in needs)
        ),
        params_schema=schema,
        score_meaning=_text(data, "score_meaning", file),
        classes=_titles(data, "classes", file),
        licence=str(data.get("licence", "")),
        source=str(data.get("source", "")),
        false_alarms=_false_alarms(data, file),
        colours=str(data.get("colours", "")),
    )


def _false_alarms(data: JsonObject, file: Path) -> str:
    """How many are to be expected, in two sentences; "" where the module does not say."""
    if "false_alarms" not in data:
        return ""
    said = _table(data["false_alarms"], "false_alarms", file)
    every, good = _rates(said, "all", file), _rates(said, "good", file)
    if every.keys() != good.keys():
        raise InvalidInput(f"{file} needs a figure of each sensor for 'all' and 'good'.")
    sensors = [
        f"{every[p]:g} with {PLATFORMS.get(p, p)} ({good[p]:g} of a score of 0.5 or more)"
        for p in every
    ]
    return (
        f"False alarms to expect per {_text(said, 'per', file)}: {', '.join(sensors)}. "
        f"Measured on {_text(said, 'measured_on', file)}."
    )


def _rates(said: JsonObject, key: str, file: Path) -> dict[str, float]:
    table = _table(said.get(key), key, file)
    rates = {
        sensor: float(rate)
        for sensor, rate in table.items()
        if isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate >= 0
    }
    if len(rates) != len(table):
        raise InvalidInput(f"{file} needs a figure for each sensor of {key!r}.")
    return rates


def _readers(file: Path) -> tuple[str, tuple[str, ...]]:
    """A collection's id, and who may read its scenes: nobody where it does not say."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{file} cannot be read: {exc}") from exc
    if not isinstance(data, dict):
        raise InvalidInput(f"{file} is not a STAC collection.")
    return _text(data, "id", file), _texts(data, "scenebridge:readers", file)


def _toml(file: Path) -> dict[str, JsonValue]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{file} cannot be read: {exc}") from exc


def _text(data: JsonObject, key: str, file: Path) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{file} needs a text for {key!r}.")
    return value


def _texts(data: JsonObject, key: str, file: Path) -> tuple[str, ...]:
    value = data.get(key, [])
    listed = value if isinstance(value, list) else [None]
    texts = tuple(v for v in listed if isinstance(v, str))
    if len(texts) != len(listed):
        raise InvalidInput(f"{file} needs a list of texts for {key!r}.")
    return texts


def _titles(data: JsonObject, key: str, file: Path) -> dict[str, str]:
    value = _table(data.get(key, {}), key, file)
    texts = {k: v for k, v in value.items() if isinstance(v, str)}
    if len(texts) != len(value):
        raise InvalidInput(f"{file} needs a table of texts for {key!r}.")
    return texts


def _table(value: JsonValue, key: str, file: Path) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInput(f"{file} needs a table for {key!r}.")
    return value


def _name(data: JsonObject, key: str, file: Path) -> str:
    value = _text(data, key, file)
    if not NAME_PATTERN.fullmatch(value):
        raise InvalidInput(f"{file}: {key} may hold small letters, digits and hyphens only.")
    return value
