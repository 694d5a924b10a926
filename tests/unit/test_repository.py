"""The rules of this repository: lint, types, who imports whom, and what may be tracked."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).resolve().parents[2]
LONGEST_MODULE = 450
#: Top-level packages whose imports are held to contracts.
LINTED = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "root_packages"
]
SHIPPED = {"lib.gate", "lib.jobs", "lib.protocol", "lib.model", "lib.errors", "lib.files"}
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_finds_nothing():
    done = tool(script("mypy"))
    assert done.returncode == 0, done.stdout + done.stderr


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    return tool(script("lint-imports"), "--no-cache", "--no-logo", folder=folder)


def test_nobody_imports_what_they_may_not():
    done = lint_imports(PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("pages/work.py", "import lib.store", "Pages and widgets"),
        ("ui/work_cards.py", "from lib.config import settings", "Pages and widgets"),
        ("lib/portal/facade.py", "import streamlit", "Only app.py"),
        ("lib/jobs/interfaces.py", "import lib.gate.policy", "gate on jobs"),
        ("lib/protocol/__init__.py", "import lib.jobs.interfaces", "gate on jobs"),
        ("lib/gate/policy.py", "import lib.config.settings", "knows nothing else"),
        ("lib/tunnels/link.py", "import lib.gate.policy", "never imports one"),
        ("modules/active_fire/detector.py", "import lib.model", "never import lib"),
        ("modulekit/cli.py", "import modules.active_fire", "Modules stand on modulekit"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, module, line, contract):
    for name in LINTED:
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


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


def test_no_module_is_too_long():
    lengths = {file: len(file.read_text().splitlines()) for file in tracked("*.py")}
    long = {str(f.relative_to(PROJECT)): n for f, n in lengths.items() if n > LONGEST_MODULE}
    assert not long


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


def test_no_third_party_file_is_tracked():
    names = [str(file.relative_to(PROJECT)) for file in tracked()]
    foreign = re.compile(r"(^|/)(node_modules|site-packages|vendor|third_party|assets)/|\.min\.")
    assert [name for name in names if foreign.search(name)] == []


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


def packages_imported_in(*folders: str) -> set[str]:
    """The packages that the tracked Python files of these folders import."""
    names = set()
    for file in tracked(*(f"{folder}/*.py" for folder in folders)):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    foreign = names - OWN - BACKPORTS - set(sys.stdlib_module_names)
    return {PACKAGES.get(name, name.lower().replace("_", "-")) for name in foreign}


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
