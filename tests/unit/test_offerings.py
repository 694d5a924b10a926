"""The catalogues of modules and clusters, from files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lib.config.offerings import complete_params, fit, load_offerings, offered
from lib.config.settings import Provider, Settings
from lib.errors import InvalidInput, NotFound
from lib.model import ClusterId, ModuleId
from tests.fakes.things import FIRE, a_scene

PROJECT = Path(__file__).resolve().parents[2]

MODULE = """
id = "active-fire"
version = "1.0.0"
title = "Active fire"
summary = "Finds burning pixels."
image = "scenebridge/active-fire:1.0.0"
score_meaning = "How many agree."
[classes]
fire = "Active fire"
[[needs]]
platform = "landsat-8"
bands = ["red", "swir22"]
levels = ["L1TP"]
[params]
type = "object"
additionalProperties = false
[params.properties.least]
type = "integer"
minimum = 1
default = 1
"""
CLUSTER = 'id = "here"\ntitle = "This computer"\nembedded = true\ngroups = ["everyone"]\n'

FAR = """id = "far"
title = "Far"
groups = ["everyone"]
[login]
host = "login.far.example"
host_keys = ["ssh-ed25519 KEY"]
[gate]
port = 22022
""".replace("KEY", "A" * 68)


def project(folder: Path, module: str = MODULE, cluster: str = CLUSTER) -> Path:
    files = {
        "catalogs/modules/fire.toml": 'module = "active-fire"\n',
        "modules/active_fire/module.toml": module,
        "catalogs/clusters/here.toml": cluster,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def test_the_project_s_own_catalogues_are_right() -> None:
    offerings = load_offerings(PROJECT)
    assert offerings.clusters[ClusterId("here")].embedded
    for module in offerings.modules.values():
        assert module.needs
        assert module.score_meaning
        assert module.classes
        assert complete_params(module, {}).keys() == module.params_schema["properties"].keys()


EXPECTED = """
[false_alarms]
per = "1,000 km² of water"
measured_on = "12 synthetic scenes"
all = { landsat-8 = 4.8, formosat-2 = 33.0 }
good = { landsat-8 = 2, formosat-2 = 0 }
"""


def test_a_module_says_how_many_false_alarms_to_expect_and_what_that_was_measured_on(
    tmp_path: Path,
) -> None:
    ships = load_offerings(PROJECT).modules[ModuleId("offshore-objects")]
    assert "per 1,000 km² of water" in ships.false_alarms
    assert "synthetic" in ships.false_alarms
    assert load_offerings(project(tmp_path)).module(ModuleId("active-fire")).false_alarms == ""
    said = load_offerings(project(tmp_path, MODULE + EXPECTED)).module(ModuleId("active-fire"))
    assert said.false_alarms == (
        "False alarms to expect per 1,000 km² of water: 4.8 with Landsat 8 (2 of a score of 0.5 or "
        "more), 33 with FORMOSAT-2 (0 of a score of 0.5 or more). Measured on 12 synthetic scenes."
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4.8", "-1"), ("4.8", '"few"'), ("4.8", "true"), (", formosat-2 = 0", ""),
        ("all = ", "most = "), ("per = ", "of = "), ("measured_on = ", "on = "),
    ],
)  # fmt: skip
def test_figures_that_are_none_are_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(InvalidInput, match=r"module\.toml needs a"):
        load_offerings(project(tmp_path, MODULE + EXPECTED.replace(old, new)))


def test_a_small_project(tmp_path: Path) -> None:
    offerings = load_offerings(project(tmp_path))
    module = offerings.module(ModuleId("active-fire"))
    assert (module.version, module.needs[0].bands) == ("1.0.0", ("red", "swir22"))
    cluster = offerings.cluster(ClusterId("here"))
    assert (cluster.title, cluster.institute, cluster.embedded) == ("This computer", "", True)
    with pytest.raises(NotFound, match="no module 'x'"):
        offerings.module(ModuleId("x"))
    with pytest.raises(NotFound, match="no cluster 'x'"):
        offerings.cluster(ClusterId("x"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "active-fire"', 'id = "other"', "offers active-fire, but the module is other"),
        ('id = "active-fire"', 'id = "Active Fire"', "small letters"),
        ('title = "Active fire"', 'title = " "', "needs a text for 'title'"),
        ('version = "1.0.0"', "version = 1", "needs a text for 'version'"),
        ('score_meaning = "How many agree."', "", "needs a text for 'score_meaning'"),
        ('type = "integer"', 'type = "nothing"', "not a JSON Schema"),
        ("[[needs]]", "[[needs", "cannot be read"),
        ("[[needs]]", "[needs]", "a list of tables for 'needs'"),
        ('bands = ["red", "swir22"]', 'bands = "red"', "a list of texts for 'bands'"),
        ('levels = ["L1TP"]', "levels = [1]", "a list of texts for 'levels'"),
        ('fire = "Active fire"', "fire = 3", "a table of texts for 'classes'"),
    ],
)
def test_a_module_file_that_is_wrong_is_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in MODULE
    with pytest.raises(InvalidInput, match=words) as refusal:
        load_offerings(project(tmp_path, MODULE.replace(old, new)))
    assert "toml" in refusal.value.message


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ('id = "far"\n', "far.toml needs a text for 'title'"),
        ('\nid = "../x"\ntitle = "x"\n', "far.toml, line 2: id may hold small letters"),
        ("\x00", "cannot be read"),
        ('id = "far"\ntitle "Far"\n', "line 2"),
        (FAR.replace('groups = ["everyone"]\n', ""), "needs groups"),
        (FAR.replace('["everyone"]', '"everyone"'), "line 3 needs a list of texts for 'groups'"),
        (FAR + 'colour = "red"\n', r"\[gate\], line 9 has an unknown key 'colour'"),
        (FAR.replace("22022", "0"), r"\[gate\], line 8: port must be a port"),
        (FAR.replace("[login]", "[log]"), r"needs the table \[login\]"),
        (FAR.replace('"ssh-ed25519', '"ssh'), r"\[login\], line 6: host_keys holds no OpenSSH"),
        (FAR.replace('"far"', '"alpha"'), "describes alpha, as .*alpha.toml does"),
    ],
)
def test_a_broken_cluster_file_costs_its_cluster_alone_and_says_where(
    tmp_path: Path, cluster: str, words: str
) -> None:
    folder = project(tmp_path)
    (folder / "catalogs/clusters/alpha.toml").write_text(FAR.replace('"far"', '"alpha"'))
    (folder / "catalogs/clusters/far.toml").write_text(FAR)
    assert set(load_offerings(folder).clusters) == {"here", "far", "alpha"}
    (folder / "catalogs/clusters/far.toml").write_text(cluster)
    offerings = load_offerings(folder)
    assert set(offerings.clusters) == {"here", "alpha"}
    (broken,) = offerings.broken
    assert re.search(words, broken.fault), broken.fault
    assert str(folder / "catalogs/clusters/far.toml") in broken.fault
    if broken.cluster == "far":
        with pytest.raises(InvalidInput, match=re.escape(broken.fault)):
            offerings.configured(ClusterId("far"))
        with pytest.raises(NotFound):
            offerings.cluster(ClusterId("far"))
    (folder / "catalogs/clusters/alpha.toml").unlink()
    alone = offered(load_offerings(folder), Settings(data=tmp_path, runtime=tmp_path))
    left = set() if alone.broken else {"far" if cluster == FAR else "alpha"}
    assert set(alone.clusters) == left, "the portal's key to the broken one may still lie here"


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    (project(tmp_path) / "modules/active_fire/module.toml").unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_offerings(tmp_path)


def test_what_fits_and_what_does_not() -> None:
    assert fit(FIRE, [a_scene()]).ok
    assert fit(FIRE, []).ok
    wrong = [
        a_scene("A", platform="formosat-2"),
        a_scene("B", bands=("red",)),
        a_scene("C", bands=()),
        a_scene("D", level=""),
        a_scene("E"),
    ]
    assert fit(FIRE, wrong).reasons == (
        "A is FORMOSAT-2; the module reads Landsat 8.",
        "B lacks the band swir22.",
        "C lacks the bands red, swir22.",
        "D is level unknown; the module needs L1TP.",
    )


def test_parameters_are_completed_and_checked() -> None:
    assert complete_params(FIRE, {}) == {"min_pixels": 1, "factor": 0.5}
    assert complete_params(FIRE, {"factor": 2}) == {"min_pixels": 1, "factor": 2}
    for params, words in (
        ({"nothing": 1}, "no parameter 'nothing'. It has: factor, min_pixels"),
        ({"min_pixels": 0}, "“Smallest object” is not right: 0 is less than"),
        ({"min_pixels": 1.5}, "“Smallest object” is not right"),
        ({"factor": "x" * 5000}, "“factor” is not right: .*x is not a number"),
        ({"factor": "x", "min_pixels": 0}, "“factor” is .* “Smallest object” is not right"),
    ):
        with pytest.raises(InvalidInput, match=words) as refusal:
            complete_params(FIRE, params)
        assert len(refusal.value.message) < 300


def test_the_portal_s_own_computer_is_for_whom_the_settings_say(tmp_path: Path) -> None:
    offerings = load_offerings(project(tmp_path))
    here = ClusterId("here")
    alone = Settings(data=tmp_path, runtime=tmp_path)
    assert offered(offerings, alone).cluster(here).groups == ("everyone",)
    many = replace(alone, provider=(Provider("a", "A", "https://a.example", "portal"),))
    assert here not in offered(offerings, many).clusters
    some = replace(many, embedded_groups=("forest",))
    assert offered(offerings, some).cluster(here).groups == ("forest",)


def test_beside_another_cluster_the_portal_s_own_computer_is_left_out(tmp_path: Path) -> None:
    """What runs there could read the portal's key to the other cluster."""
    offerings = load_offerings(project(tmp_path))
    here, far = ClusterId("here"), ClusterId("far")
    other = replace(offerings.cluster(here), id=far, embedded=False, groups=("everyone",))
    both = replace(offerings, clusters={**offerings.clusters, far: other})
    alone = Settings(data=tmp_path, runtime=tmp_path)
    assert set(offered(both, alone).clusters) == {far}
    assert "“This computer” is not offered" in offered(both, alone).withheld
    wished = offered(both, replace(alone, embedded_groups=("everyone",)))
    assert wished.cluster(here).groups == ("everyone",)
    assert set(wished.clusters) == {here, far}
    many = replace(alone, provider=(Provider("a", "A", "https://a.example", "portal"),))
    for quiet in (wished, offered(offerings, alone), offered(both, many)):
        assert quiet.withheld == ""
