"""The rules of this repository: lint, types, who imports whom, and what may be tracked."""

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).resolve().parents[2]
#: Top-level packages whose imports are held to contracts.
LINTED = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "root_packages"
]
SHIPPED = {
    *("lib.gate", "lib.jobs", "lib.protocol", "lib.model", "lib.errors", "lib.files", "lib.loops"),
}
#: What a login node has beside the standard library. The configuration of Jupyter is read
#: by Jupyter itself, inside the runtime; tomli is for Python 3.10.
SHIPPED_PACKAGES = {"asyncssh", "cryptography", "tomli"}
INSIDE_RUNTIME = {"lib.jobs.notebook_config": {"jupyter_server", "tornado", "traitlets"}}


def tracked(*patterns: str) -> list[Path]:
    """Files that belong to the project: tracked ones that are still there."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    try:
        listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this folder is no git work tree")
    files = [PROJECT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def tool(*arguments: str, folder: Path = PROJECT) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True)


def script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# --- lint, types, imports ----------------------------------------------------------------


def test_ruff_finds_nothing():
    done = tool(script("ruff"), "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_formatted():
    done = tool(script("ruff"), "format", "--check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing():
    done = tool(script("mypy"))
    assert done.returncode == 0, done.stdout + done.stderr


#: Uses of `Any` in the whole product: at edges only, where JSON comes in.
MOST_ANY = 120
NO_ANY = ("lib/protocol", "lib/store", "lib/reconciler")


def uses_of_any(tree: ast.AST) -> int:
    """How often `Any` stands there but where it is imported; in types written as texts too."""
    found = 0
    for node in ast.walk(tree):
        found += isinstance(node, ast.Name) and node.id == "Any"
        found += isinstance(node, ast.Attribute) and node.attr == "Any"
        types = [getattr(node, field, None) for field in ("annotation", "returns")]
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            types.append(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast"):
            types.append(node.args[0])
        parts = (part for written in types if written for part in ast.walk(written))
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found += len(re.findall(r"\bAny\b", part.value))
    return found


def test_any_is_used_at_edges_only():
    product = tracked(*(f"{folder}/*.py" for folder in LINTED), "app.py", "admin.py")
    named = [file for file in product if "Any" in file.read_text("utf-8")]
    uses = {str(file.relative_to(PROJECT)): uses_of_any(parsed(file)) for file in named}
    assert {name: n for name, n in uses.items() if n and name.startswith(NO_ANY)} == {}
    worst = sorted(((n, name) for name, n in uses.items() if n), reverse=True)
    assert sum(uses.values()) <= MOST_ANY, worst[:10]


def test_every_use_of_any_counts():
    text = """
from typing import Any
import typing
a: Any
b: dict[str, typing.Any] = {"Any": "Any"}
C: TypeAlias = "list[Any]"
def d(x: "list[Any]", *y: Any) -> "Any": "Any of them."; return cast("Any", cast(Any, x))
"""
    assert uses_of_any(ast.parse(text)) == 8


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    return tool(script("lint-imports"), "--no-cache", "--no-logo", folder=folder)


def test_nobody_imports_what_they_may_not():
    done = lint_imports(PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


#: A line that breaks a contract, each in a file of its own.
FORBIDDEN = [
    ("pages/work.py", "lib.store", "Pages and widgets"),
    ("ui/work_cards.py", "lib.config.settings", "Pages and widgets"),
    ("lib/portal/facade.py", "streamlit", "Only app.py"),
    ("lib/jobs/interfaces.py", "lib.gate.policy", "gate on jobs"),
    ("lib/protocol/__init__.py", "lib.jobs.interfaces", "gate on jobs"),
    ("lib/gate/policy.py", "lib.config.settings", "knows nothing else"),
    ("lib/tunnels/link.py", "lib.gate.policy", "never imports one"),
    ("modules/active_fire/detector.py", "lib.model", "never import lib"),
    ("modulekit/cli.py", "modules.active_fire", "Modules stand on modulekit"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy with all those lines: it reads the project once."""
    copy = tmp_path_factory.mktemp("broken")
    for name in LINTED:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(PROJECT / "pyproject.toml", copy)
    for module, imported, _ in FORBIDDEN:
        with (copy / module).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("module", "imported", "contract"), FORBIDDEN)
def test_a_forbidden_import_is_found(broken: str, module: str, imported: str, contract: str):
    verdicts, _, details = broken.partition("Broken contracts")
    assert re.search(rf"{contract}.* BROKEN", verdicts), broken
    of_contract = re.search(
        rf"^[^\n]*{contract}[^\n]*\n-+\n(.*?)(?=^[^\n]+\n-+\n|\Z)", details, re.M | re.S
    )
    assert of_contract, details
    importer = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)}\b", of_contract[1]), details


def test_what_is_shipped_needs_asyncssh_and_nothing_else():
    graph = grimp.build_graph("lib", include_external_packages=True, cache_dir=None)
    packages_shipped = tuple(f"{name}." for name in SHIPPED)
    shipped = {m for m in graph.modules if m in SHIPPED or m.startswith(packages_shipped)}
    assert shipped > SHIPPED
    for module in shipped:
        imported = graph.find_modules_directly_imported_by(module)
        outside = {m for m in imported if m not in shipped and m != "lib"}
        packages = {m.split(".")[0] for m in outside} - set(sys.stdlib_module_names)
        allowed = SHIPPED_PACKAGES | INSIDE_RUNTIME.get(module, set())
        assert packages <= allowed, f"{module} imports {packages - allowed}"


# --- what is tracked -----------------------------------------------------------------------


def test_no_file_names_a_machine_or_a_package_registry():
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "registry" + ".npmjs", "deb" + ".debian.org"]
    folders = [
        "/" + "work/",
        "/" + "root/",
        # The accounts of the documentation and of the test-bed may stand there.
        r"/home/(?!user|you|USER|(images|data|scenebridge|ada|mallory|u100[12])\b)[a-z]",
    ]
    wrong = re.compile("|".join([*(re.escape(host) for host in hosts), *folders]))
    found = []
    for file in tracked():
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            # A path inside the project may end in the same letters, as in ".../in-work/".
            for match in wrong.finditer(line):
                before = line[: match.start()][-1:]
                if not (before.isalnum() or before in "._-})>"):
                    found.append(f"{file.relative_to(PROJECT)}:{number}: {line.strip()[:120]}")
    assert not found


def test_the_lock_file_of_npm_carries_checksums_and_no_addresses():
    lock = json.loads((PROJECT / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert entry["integrity"].startswith("sha512-"), name


FOREIGN_FOLDERS = re.compile(
    r"(^|/)(node_modules|site-packages|dist-info|vendor|third_party|assets)/|\.min\."
)
BINARY_ENDINGS = re.compile(
    r"\.(whl|egg|zip|jar|war|tar|tgz|gz|bz2|xz|zst|7z|rar|deb|rpm|apk|sif|img|iso"
    r"|so(\.\d+)*|dylib|dll|exe|o|a|lib|pyd|pyc|class|wasm|node|bin)$",
    re.IGNORECASE,
)
#: How programs and archives begin: (offset, bytes).
MAGIC = {
    "zip, wheel or jar": (0, b"PK\x03\x04"),
    "empty zip": (0, b"PK\x05\x06"),
    "gzip": (0, b"\x1f\x8b"),
    "bzip2": (0, b"BZh"),
    "xz": (0, b"\xfd7zXZ\x00"),
    "zstd": (0, b"\x28\xb5\x2f\xfd"),
    "7z": (0, b"7z\xbc\xaf\x27\x1c"),
    "rar": (0, b"Rar!\x1a\x07"),
    "tar": (257, b"ustar"),
    "ar or deb": (0, b"!<arch>\n"),
    "rpm": (0, b"\xed\xab\xee\xdb"),
    "ELF": (0, b"\x7fELF"),
    "PE": (0, b"MZ"),
    "Mach-O": (0, b"\xcf\xfa\xed\xfe"),
    "Java class or universal Mach-O": (0, b"\xca\xfe\xba\xbe"),
    "WebAssembly": (0, b"\x00asm"),
    "SIF": (32, b"SIF_MAGIC"),
    "squashfs": (0, b"hsqs"),
}


def foreign(file: Path, name: str) -> str:
    """Why this file cannot be ours: where it lies, how it ends or how it begins; or ""."""
    if FOREIGN_FOLDERS.search(name):
        return "lies where other people's files lie"
    if BINARY_ENDINGS.search(name):
        return "ends as a program or archive"
    with file.open("rb") as opened:
        head = opened.read(512)
    kinds = (kind for kind, (at, magic) in MAGIC.items() if head[at:].startswith(magic))
    return next(kinds, "")


def test_no_third_party_file_is_tracked():
    names = {str(file.relative_to(PROJECT)): file for file in tracked()}
    assert {n: why for n, file in names.items() if (why := foreign(file, n))} == {}


def test_planted_programs_and_archives_are_found(tmp_path):
    planted = tmp_path / "notes.txt"
    with zipfile.ZipFile(planted, "w") as archive:
        archive.writestr("x.py", "")
    assert foreign(planted, "notes.txt") == "zip, wheel or jar"
    with tarfile.open(planted, "w") as archive:
        archive.add(PROJECT / "LICENSE", "LICENSE")
    assert foreign(planted, "notes.txt") == "tar"
    shutil.copy(Path(sys.executable).resolve(), planted)
    assert foreign(planted, "notes.txt") in ("ELF", "Mach-O", "Java class or universal Mach-O")
    for kind, (at, magic) in MAGIC.items():
        planted.write_bytes(bytes(at) + magic)
        assert foreign(planted, "notes.txt"), kind
    planted.write_text("ours")
    assert foreign(planted, "notes.txt") == ""
    for name in ("a-1.0-py3-none-any.whl", "x/y.SO", "z.so.1", "x.tar.gz", "i.sif", "v.jar"):
        assert foreign(planted, name), name
    assert foreign(planted, "vendor/x.py")


def test_what_is_made_at_run_time_is_ignored():
    for name in (
        ".venv/x",
        ".venv.lock",
        "var/x",
        "assets/x",
        "node_modules/x",
        "lib/__pycache__/x",
    ):
        done = tool("git", "check-ignore", "-q", name)
        assert done.returncode == 0, name
    assert tool("git", "check-ignore", "-q", "lib/gate/x.py").returncode == 1


# --- packages ------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    text = (PROJECT / name).read_text()
    return {
        found[1].lower().replace("_", "-"): found[2]
        for found in re.finditer(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


def wanted(name: str) -> set[str]:
    """What a `.in` file names, as it is written there."""
    lines = (PROJECT / name).read_text().splitlines()
    return {x.split("#")[0].strip() for x in lines if x and not x.startswith(("#", "-"))}


@pytest.mark.parametrize(
    "name", ["requirements", "requirements-dev", "modules/requirements", "tools/uv", "tools/node"]
)
def test_every_requirement_is_locked_with_its_hashes_and_no_address(name):
    lock = (PROJECT / f"{name}.txt").read_text()
    locked = pins(f"{name}.txt") | (pins("requirements.txt") if "-dev" in name else {})
    for package, version in pins(f"{name}.in").items():
        assert locked[package] == version, f"{package}: start python -m tools.lock"
    if name != "modules/requirements":  # where the project's own versions hold
        assert len(wanted(f"{name}.in")) == len(pins(f"{name}.in")), "a line is not pinned with =="
    entry = r"([\w.-]+(\[\w,]+\])?==\S+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n)"
    assert re.fullmatch(rf"#[^\n]*\n(-r requirements\.txt\n)?{entry}+", lock)
    assert "://" not in lock


def test_all_lock_files_agree():
    for name in ("requirements-dev.txt", "modules/requirements.txt"):
        for package, version in pins(name).items():
            assert pins("requirements.txt").get(package, version) == version, package


def test_every_runtime_requirement_says_why_it_is_there():
    for line in (PROJECT / "requirements.in").read_text().splitlines():
        if "==" in line:
            assert re.search(r"  # \w", line), line


#: Import name -> package, where they differ. Some come as the substance of another.
PACKAGES = {
    "PIL": "pillow", "yaml": "pyyaml", "streamlit_folium": "streamlit-folium",
    "pystac_client": "pystac-client",
    "openapi_spec_validator": "openapi-spec-validator", "jupyter_server": "jupyterlab",
    "traitlets": "jupyterlab", "tornado": "jupyterlab", "IPython": "ipykernel",
    "branca": "folium", "affine": "rasterio", "yarl": "aiohttp", "xdist": "pytest-xdist",
}  # fmt: skip
OWN = {"lib", "ui", "pages", "modules", "modulekit", "app", "admin", "tests", "benchmarks"}
OWN |= {"testbed", "tools"}
#: Installed by nobody: the standard library of newer Pythons has it.
BACKPORTS = {"tomli"}


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below it, and nothing of what they are made of: a tenth of the nodes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from statements(child)


@functools.cache
def imported_in(file: Path) -> frozenset[str]:
    """The top-level names that a Python file imports."""
    names = set()
    for node in statements(parsed(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return frozenset(names)


#: Whatever may be an import, also what is none: lines of a text.
MAY_IMPORT = re.compile(
    r"(?:^|[:;])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+(.+))", re.M
)


@functools.cache
def may_import(file: Path) -> frozenset[str]:
    """At least the top-level names that a Python file imports, without parsing it."""
    found = MAY_IMPORT.findall(file.read_text("utf-8"))
    written = [name for one, several in found for name in (one, *several.split(","))]
    return frozenset(re.split(r"\W", name.strip())[0] for name in written if name.strip())


def packages(names: frozenset[str]) -> set[str]:
    foreign = names - OWN - BACKPORTS - set(sys.stdlib_module_names)
    return {PACKAGES.get(name, name.lower().replace("_", "-")) for name in foreign}


def packages_imported_in(*folders: str) -> set[str]:
    """The packages that the tracked Python files of these folders import. Only what may import
    another one is parsed."""
    found: set[str] = set()
    for file in tracked(*(f"{folder}/*.py" for folder in folders)):
        if not packages(may_import(file)) <= found:
            found |= packages(imported_in(file))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import one_package",
        "from one_package.part import thing",
        "import os, one_package",
        "if True: import one_package",
        "    from one_package import (\n        thing,\n    )",
        "import one_package as other  # for its side effects",
    ],
)
def test_an_import_is_found_however_it_is_written(line: str, tmp_path: Path):
    file = tmp_path / "file.py"
    file.write_text(f"if os:\n{line}\n" if line.startswith(" ") else f"{line}\n")
    assert packages(may_import(file)) == packages(imported_in(file)) == {"one-package"}


def test_every_package_that_is_imported_is_a_requirement():
    needed = packages_imported_in("lib", "ui", "pages", "modules", "modulekit")
    assert needed <= set(pins("requirements.in"))


def test_every_package_that_tests_import_is_a_requirement():
    installed = set(pins("requirements.in")) | set(pins("requirements-dev.in"))
    # A test's own small packages stand beside it.
    beside = {file.stem for file in tracked("tests/**/*.py", "benchmarks/**/*.py")}
    assert packages_imported_in("tests", "benchmarks") - beside <= installed


def test_no_runtime_requirement_is_there_for_nothing():
    """Those that nothing imports are named by their reason: programs and plug-ins."""
    by_name_only = {"jupyterlab", "ipykernel", "httptools", "websockets", "pyarrow", "alembic"}
    used = packages_imported_in("lib", "ui", "pages", "modules", "modulekit", "app.py")
    assert set(pins("requirements.in")) - used <= by_name_only


def test_an_image_installs_what_modules_import_and_nothing_that_is_not_pinned():
    lines = (PROJECT / "modules/requirements.in").read_text().splitlines()
    assert lines.count("-c ../requirements.txt") == 1
    names = wanted("modules/requirements.in")
    assert names <= set(pins("modules/requirements.txt"))
    assert packages_imported_in("modules", "modulekit") <= names
    assert names <= set(pins("requirements.in"))


def test_every_module_has_its_container_file_and_they_differ_in_names_only():
    folders = [file.parent for file in tracked("modules/*/module.toml")]
    assert folders
    common = set()
    for folder in folders:
        manifest = tomllib.loads((folder / "module.toml").read_text("utf-8"))
        text = (folder / "container.def").read_text("utf-8")
        assert f"org.opencontainers.image.version {manifest['version']}\n" in text
        assert f"-m modules.{folder.name} info\n" in text
        common.add(text.replace(manifest["id"], "NAME").replace(folder.name, "NAME"))
    assert len(common) == 1
