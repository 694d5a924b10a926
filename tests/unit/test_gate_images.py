"""The images of a policy's modules: what is checked, fetched, remembered and refused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput
from lib.gate.images.checksum import CheckedFiles
from lib.gate.images.store import Images, ImageState
from lib.gate.policy import Policy, parse
from tests.fixtures.containers import APPTAINER, make_containers, why_not
from tests.fixtures.image_host import ImageHost, digest
from tests.unit.test_gate_policy import GOOD

SIF = random.Random(1).randbytes(3 * 2**20)  # the same in every worker: it names tests
SHA256 = hashlib.sha256(SIF).hexdigest()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageHost]:
    made = ImageHost(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.cafile))
    yield made
    made.close()


class Site:
    """A gate's folder with images, and a policy with one module."""

    def __init__(self, root: Path) -> None:
        self.home = root / "gate"
        (self.home / "sessions").mkdir(parents=True)
        self.sif = root / "module.sif"
        self.sif.write_bytes(SIF)
        self.hosts: list[str] = []

    def policy(self, image: str | None = None, sha256: str | None = SHA256) -> Policy:
        module: dict[str, Any] = {"id": "small", "version": "1.0.0", "entry": "small"}
        module["image"] = str(self.sif) if image is None else image
        if sha256 is not None:
            module["sha256"] = sha256
        data = {**GOOD, "modules": [module], "data_paths": [], "https_hosts": self.hosts}
        return parse({**data, "runtime": {"name": "apptainer"}}, self.home)

    def images(self, image: str | None = None, sha256: str | None = SHA256) -> Images:
        return Images(self.home / "images", self.policy(image, sha256))

    def files(self) -> list[Path]:
        return sorted((self.home / "images").iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def state(images: Images) -> ImageState:
    return await images.state("small", "1.0.0")


async def settled(images: Images, timeout_s: float = 300.0) -> tuple[ImageState, list[str]]:
    """The state when nothing goes on any more, and what was said on the way."""
    said: list[str] = []
    async with asyncio.timeout(timeout_s):
        while (found := await state(images)).waiting:
            if found.waiting not in said:
                said.append(found.waiting)
            await asyncio.sleep(0.01)
    return found, said


async def until(true: Callable[[], object], timeout_s: float = 300.0) -> None:
    for _ in range(int(timeout_s / 0.01)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not reached")


# --- files of the cluster ----------------------------------------------------------------


async def test_a_file_is_read_once_and_remembered_over_restarts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = await settled(site.images())
    assert found == ImageState(path=site.sif)
    assert said[0].startswith("Checking the image")
    read: list[Path] = []
    real = CheckedFiles.checksum

    def count(self: CheckedFiles, path: Path, progress: Any) -> str:
        read.append(path)
        return real(self, path, progress)

    monkeypatch.setattr(CheckedFiles, "checksum", count)
    again = site.images()
    assert await state(again) == ImageState(path=site.sif)
    assert read == []
    site.sif.write_bytes(SIF)  # the same bytes, but who knows
    assert await settled(again)
    assert await state(again) == ImageState(path=site.sif)
    assert read == [site.sif]


async def test_another_checksum_is_refused_with_both_and_who_can_mend_it(site: Site) -> None:
    images = site.images()
    await settled(images)
    site.sif.write_bytes(SIF[:-1] + b"\0")
    found, _ = await settled(images)
    assert found.path is None
    bad = hashlib.sha256(site.sif.read_bytes()).hexdigest()
    for word in (str(site.sif), bad[:12], SHA256[:12], "who looks after the gate", "policy"):
        assert word in found.failure
    assert await images.troubles() == [found.failure]
    assert images.check() == [found.failure]


async def test_a_file_that_is_put_right_is_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = site.images()
    site.sif.write_bytes(b"wrong")
    assert (await settled(images))[0].failure
    site.sif.write_bytes(SIF)
    assert (await state(images)).failure  # told to all who wait, for a while
    monkeypatch.setattr("lib.gate.images.store._FAILURE_COUNTS_S", 0.0)
    assert (await settled(images))[0].path == site.sif
    assert await images.troubles() == []


async def test_a_missing_file_is_said_at_once(site: Site) -> None:
    site.sif.unlink()
    images = site.images()
    found = await state(images)
    assert found.failure.startswith("The image of small 1.0.0 is missing: ")
    assert str(site.sif) in found.failure
    assert "who looks after the gate" in found.failure
    assert await images.troubles() == [found.failure]
    assert images.check() == [found.failure]


async def test_a_folder_is_no_image(site: Site, tmp_path: Path) -> None:
    found = await state(site.images(str(tmp_path)))
    assert "not a file" in found.failure


def test_check_is_content_with_what_is_right(site: Site) -> None:
    assert site.images().check() == []
    assert site.images("https://data.example.org/x.sif").check() == []  # not fetched yet


async def test_a_module_without_an_image_waits_for_none(site: Site) -> None:
    images = Images(site.home / "images", parse(GOOD, site.home))
    assert await images.state("active-fire", "1.0.0") == ImageState()
    assert await images.state("none", "1.0.0") == ImageState()
    assert await images.troubles() == []


# --- https -------------------------------------------------------------------------------


async def test_an_https_image_is_fetched_once_for_all_and_kept(site: Site, host: ImageHost) -> None:
    host.paths["/x.sif"] = SIF
    host.gate.clear()
    images = site.images(host.url("/x.sif"))
    waiting = asyncio.ensure_future(settled(images))
    await until(host.half.is_set)
    assert (await state(images)).path is None
    await asyncio.sleep(0.3)
    host.gate.set()
    found, said = await waiting
    assert "Fetching the image: 33 %." in said  # one whole piece of three
    assert found.path is not None
    assert found.path.read_bytes() == SIF
    assert found.path.stat().st_mode & 0o777 == 0o600
    assert found.path.parent == site.home / "images"
    again = site.images(host.url("/x.sif"))
    assert await state(again) == found
    assert host.asked == ["/x.sif"]
    assert [f.name for f in site.files()] == sorted(["checked.json", found.path.name])


async def test_a_fetched_image_that_was_damaged_is_fetched_again(
    site: Site, host: ImageHost
) -> None:
    host.paths["/x.sif"] = SIF
    images = site.images(host.url("/x.sif"))
    found, _ = await settled(images)
    assert found.path is not None
    found.path.write_bytes(b"damaged")
    assert (await settled(images))[0] == found
    assert found.path.read_bytes() == SIF
    assert len(host.asked) == 2


async def test_an_https_image_with_another_checksum_leaves_nothing(
    site: Site, host: ImageHost
) -> None:
    host.paths["/x.sif"] = SIF[1:]
    images = site.images(host.url("/x.sif"))
    found, _ = await settled(images)
    assert hashlib.sha256(SIF[1:]).hexdigest()[:12] in found.failure
    assert SHA256[:12] in found.failure
    assert site.files() == []
    assert await images.troubles() == [found.failure]


async def test_a_transfer_that_is_cut_leaves_nothing(site: Site, host: ImageHost) -> None:
    host.paths["/x.sif"] = SIF
    host.cut = True
    found, _ = await settled(site.images(host.url("/x.sif")))
    assert "of 3145728 bytes came" in found.failure
    assert site.files() == []


async def test_hosts_that_cannot_be_reached_or_do_not_have_it_are_named(
    site: Site, host: ImageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = await settled(site.images(host.url("/none.sif")))
    assert f"{host.netloc} answers 404" in found.failure
    found, _ = await settled(site.images("https://localhost:1/x.sif"))
    assert "localhost:1 is not reachable" in found.failure
    assert "who looks after the gate" in found.failure
    monkeypatch.delenv("SSL_CERT_FILE")
    host.paths["/x.sif"] = SIF
    found, _ = await settled(site.images(host.url("/x.sif")))
    assert "not reachable: [SSL" in found.failure


async def test_redirects_go_to_https_hosts_of_the_policy_only(
    site: Site, host: ImageHost, tmp_path: Path
) -> None:
    host.paths["/x.sif"] = SIF
    host.paths["/same"] = host.url("/x.sif")
    assert (await settled(site.images(host.url("/same"))))[0].path is not None
    for target in (f"http://{host.netloc}/x.sif", "https://elsewhere.example/x.sif"):
        host.paths["/away"] = target
        found, _ = await settled(site.images(host.url("/away")))
        assert "which is not among the https_hosts" in found.failure
    host.paths["/away"] = "file:///etc/hostname"
    assert "not allowed" in (await settled(site.images(host.url("/away"))))[0].failure
    site.hosts = ["elsewhere.example"]
    host.paths["/away"] = "https://elsewhere.example/x.sif"
    found, _ = await settled(site.images(host.url("/away")))
    assert "not reachable" in found.failure  # it was tried


async def test_closing_breaks_a_fetch_off(site: Site, host: ImageHost) -> None:
    host.paths["/x.sif"] = SIF
    host.gate.clear()
    images = site.images(host.url("/x.sif"))
    await state(images)
    await until(host.half.is_set)
    await images.close()
    host.gate.set()
    await until(lambda: not site.files())


# --- registries --------------------------------------------------------------------------


@pytest.mark.skipif(why_not() != "", reason=why_not() or "-")
async def test_an_image_of_a_registry_is_pulled_by_digest_and_kept(
    site: Site, host: ImageHost, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    real = make_containers(tmp_path / "made").image.read_bytes()
    reference = host.publish("lab/module", real)
    found, said = await settled(site.images(reference, None))
    assert found.path is not None, found.failure
    assert found.path.read_bytes() == real
    assert said[0].startswith("Fetching the image")
    asked = len(host.asked)
    again = site.images(reference, None)
    assert await state(again) == found
    assert len(host.asked) == asked
    found.path.write_bytes(b"damaged")
    assert (await settled(again))[0] == found
    assert found.path.read_bytes() == real


@pytest.mark.skipif(not APPTAINER.exists(), reason="Apptainer is not installed")
async def test_a_registry_without_the_image_is_named_with_its_words(
    site: Site, host: ImageHost
) -> None:
    host.paths["/v2/"] = b"{}"
    reference = f"oras://{host.netloc}/lab/none@{digest(b'none')}"
    found, _ = await settled(site.images(reference, None))
    assert found.failure.startswith("The image of small 1.0.0 cannot be had: ")
    assert f"{host.netloc} did not give it" in found.failure
    assert [f.name for f in site.files()] == []


# --- what a policy may name --------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "sha256"),
    [
        ("/images/x.sif", SHA256),
        ("https://data.example.org/a/x.sif", SHA256),
        (f"docker://ghcr.io/lab/x@sha256:{SHA256}", None),
        (f"oras://ghcr.io:5000/lab/x:1.0@sha256:{SHA256}", None),
    ],
)
def test_these_images_may_be_named(site: Site, image: str, sha256: str | None) -> None:
    name = site.policy(image, sha256).modules[0].image
    assert name is not None
    assert name.reference == image


@pytest.mark.parametrize(
    ("image", "sha256", "words"),
    [
        ("/images/x.sif", None, "needs sha256"),
        ("/images/x.sif", SHA256.upper(), "needs sha256"),
        ("/images/x.sif", SHA256[:12], "needs sha256"),
        ("https://data.example.org/x.sif", None, "needs sha256"),
        ("https://user@data.example.org/x.sif", SHA256, "plain https"),
        ("https://data.example.org/x.sif?token=1", SHA256, "plain https"),
        ("http://data.example.org/x.sif", SHA256, "must be an absolute path"),
        ("images/x.sif", SHA256, "must be an absolute path"),
        ("", SHA256, "must be an absolute path"),
        ("docker://ghcr.io/lab/x:latest", None, "digest"),
        ("docker://ghcr.io/lab/x", SHA256, "digest"),
        (f"docker://ghcr.io/lab/x@sha256:{SHA256}", SHA256, "takes the place"),
        (f"library://lab/x@sha256:{SHA256}", None, "must be an absolute path"),
        (f"docker://--help/x@sha256:{SHA256}/..", None, "must be an absolute path"),
    ],
)
def test_these_images_may_not_be_named(
    site: Site, image: str, sha256: str | None, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        site.policy(image, sha256)


def test_what_jobs_write_is_no_image(site: Site) -> None:
    with pytest.raises(InvalidInput, match="must not lie there"):
        site.policy(str(site.home / "sessions" / "x" / "work" / "x.sif"))


def test_images_are_needed_by_containers_and_unknown_to_processes(site: Site) -> None:
    module = {"id": "small", "version": "1.0.0", "entry": "small"}
    data = {**GOOD, "data_paths": [], "modules": [module], "runtime": {"name": "apptainer"}}
    with pytest.raises(InvalidInput, match="lacks the key 'image'"):
        parse(data, site.home)
    data = {**GOOD, "modules": [{**module, "image": str(site.sif), "sha256": SHA256}]}
    with pytest.raises(InvalidInput, match="unknown key"):
        parse(data, site.home)
