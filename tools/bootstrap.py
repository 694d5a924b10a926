"""Set-up of the project folder, and the start of what was asked for.

`python -I tools/bootstrap.py run|test [ARGUMENT...]` (started by `run` and `test` through
`bootstrap.sh`, which finds the Python) makes sure of

1. `.venv`, a virtual environment whose Python still runs;
2. the packages of the lock files in it, by uv, or by pip where uv cannot be had or fails;
3. the front-end files: npm packages by the lock file, built into `assets/`;

and then becomes `python -m lib.server.main`, or what `COMMANDS` says. A part is done again only
when what it was made from has changed; a part that fails leaves no stamp, so the next
start tries it again. Standard library only: nothing is installed yet when this runs.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

OLDEST_PYTHON = (3, 11)
#: Lock files of version 3 are read by npm 7 and later.
OLDEST_NPM = 7

#: Four for two cores: much of their time they wait for other programs.
_PYTEST = ("-P", "-m", "pytest", "-n", "4")
#: The longest come first, which loadscope would turn round.
_SPREAD = ("--dist", "loadscope", "--no-loadscope-reorder")
_FAST = "not browser and not slow and not portal"
#: Every test in these starts a portal or browser: they need not even be imported.
NEVER_FAST = ("tests/e2e", "tests/pages")
#: Each brings whole sites up, for a group of files (tests/sites/conftest.py).
_SITES = ("-P", "-m", "pytest", "-n", "3")
#: What each command becomes once everything is there; arguments follow.
COMMANDS = {
    "run": ("-P", "-m", "lib.server.main"),
    "test": (*_PYTEST, *_SPREAD),
    "fast": (*_PYTEST, *_SPREAD, *(f"--ignore={folder}" for folder in NEVER_FAST), "-m", _FAST),
    "changed": ("-P", "-m", "tools.changed"),
    "sites": _SITES,
}
#: `./test --sites`: the tests that need root and the test-bed, instead of the others.
SITES = "--sites"
SITES_FOLDER = "tests/sites"
#: `./test --changed`: what a change of the checkout can break.
CHANGED = "--changed"
#: `./test fast`: no browser, no portal of a test's own, nothing that takes long.
FAST = "fast"

RUN_LOCK = "requirements.txt"
#: Stands on the first (`-r`).
DEV_LOCK = "requirements-dev.txt"
UV_LOCK = "tools/uv.txt"
NODE_LOCK = "tools/node.txt"
MAP_SCRIPTS = "ui/components/map"
#: What is set up for one goal serves these too.
COVERS = {"run": ("run",), "test": ("run", "test")}


class SetupError(Exception):
    """The message is one or two sentences that say what to do."""


@dataclass(frozen=True)
class Project:
    """The project folder and where set-up keeps its own things in it."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def uv(self) -> Path:
        return self.venv / "bin" / "uv"

    @property
    def stamps(self) -> Path:
        return self.venv / "scenebridge-setup.json"

    @property
    def log(self) -> Path:
        return self.venv / "scenebridge-setup.log"


@dataclass(frozen=True)
class Part:
    """One part of the set-up.

    Args:
        inputs: per goal, the files and folders that it is made from.
        product: the folder that is there when it was made.
    """

    name: str
    inputs: Mapping[str, tuple[str, ...]]
    product: str
    make: Callable[[Project, str], None]


def main(arguments: Sequence[str]) -> NoReturn:
    """Set up what `arguments[0]` ("run" or "test") needs, then become it."""
    goal = arguments[0]
    project = Project(Path(__file__).resolve().parent.parent)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command, rest = goal, list(arguments[1:])
    try:
        if goal == "test":
            command, rest = test_command(project, rest)
        if command == "sites":
            check_testbed(project)
        prepare(project, goal)
    except SetupError as exc:
        sys.exit(f"SceneBridge: {exc}")
    except KeyboardInterrupt:
        sys.exit("SceneBridge: set-up was interrupted; the next start continues it.")
    if goal == "test":
        os.chdir(project.root)
    argv = [str(project.python), *COMMANDS[command], *rest]
    os.execve(argv[0], argv, {**os.environ, "PYTHONPATH": str(project.root)})  # noqa: S606


def test_command(project: Project, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Which of `COMMANDS` `./test` with these arguments is, and what is left of them."""
    if arguments[:1] == [FAST]:
        return "fast", list(arguments[1:])
    for option, command in ((CHANGED, "changed"), (SITES, "sites")):
        if option in arguments:
            rest = [word for word in arguments if word != option]
            if command == "sites" and not any(is_site_test(project, word) for word in rest):
                rest.insert(0, SITES_FOLDER)
            return command, rest
    return "test", list(arguments)


def is_site_test(project: Project, argument: str) -> bool:
    """Whether it selects among the tests of sites: a folder, a file or one test of it."""
    path = (project.root / argument.partition("::")[0]).resolve()
    return path.exists() and path.is_relative_to(project.root / SITES_FOLDER)


def check_testbed(project: Project) -> None:
    """Whether the test-bed can come up here, which needs root and installed programs.

    Raises:
        SetupError: what is missing, with the command that mends it.
    """
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "testbed", "check"],
        env={**os.environ, "PYTHONPATH": str(project.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if asked.returncode:
        said = asked.stderr.strip() or "the test-bed could not be asked what is missing"
        raise SetupError(f"the tests of sites cannot run. {said.removeprefix('testbed: ')}")


def prepare(project: Project, goal: str) -> None:
    """Bring the project folder up to date for `goal`; quick where it is.

    Raises:
        SetupError: with a message that says what to do.
    """
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise SetupError(f"Python 3.11 or newer is needed; this one is {found}.")
    if not any(is_due(project, part, goal) for part in PARTS):
        return
    with one_at_a_time(project):
        if not venv_version(project):
            make_venv(project)
        for part in PARTS:
            if is_due(project, part, goal):
                part.make(project, goal)
                write_stamp(project, part, goal)


# --- what is up to date -----------------------------------------------------------


def is_due(project: Project, part: Part, goal: str) -> bool:
    """Whether `part` was never made for `goal`, or from other inputs, or is gone."""
    made = read_stamps(project).get(f"{part.name}:{goal}")
    return made != digest(project, part, goal) or not (project.root / part.product).is_dir()


def digest(project: Project, part: Part, goal: str) -> str:
    """What `part` would be made from now: its input files and the environment's Python."""
    total = hashlib.sha256(venv_version(project).encode())
    for name in part.inputs[goal]:
        path = project.root / name
        for file in sorted(path.rglob("*.*")) if path.is_dir() else [path]:
            content = file.read_bytes()
            total.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def read_stamps(project: Project) -> dict[str, str]:
    """Part and goal -> digest; empty where nothing was made or the file is broken."""
    try:
        stamps = json.loads(project.stamps.read_text())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def write_stamp(project: Project, part: Part, goal: str) -> None:
    """Note that `part` is made for `goal` and for what that covers, and for nothing else."""
    stamps = {k: v for k, v in read_stamps(project).items() if not k.startswith(f"{part.name}:")}
    stamps |= {f"{part.name}:{g}": digest(project, part, g) for g in COVERS[goal]}
    fresh = project.stamps.with_suffix(".new")
    fresh.write_text(json.dumps(stamps, indent=1))
    fresh.replace(project.stamps)


@contextmanager
def one_at_a_time(project: Project) -> Iterator[None]:
    """Keep `./run` and `./test` of the same folder from setting it up at the same time."""
    try:
        lock = (project.root / ".venv.lock").open("w")
    except OSError as exc:
        raise SetupError(
            f"the folder {project.root} cannot be written to ({exc.strerror}), "
            "and the set-up needs it."
        ) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another set-up of this folder to finish.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the virtual environment and its packages --------------------------------------


def venv_version(project: Project) -> str:
    """ "3.11" for an environment whose Python runs and has pip, else ""."""
    code = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        asked = subprocess.run(
            [project.python, "-I", "-c", code], capture_output=True, text=True, timeout=60
        )
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def make_venv(project: Project) -> None:
    say("Making the virtual environment .venv")
    try:
        venv.create(project.venv, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        shutil.rmtree(project.venv, ignore_errors=True)
        raise SetupError(
            f"the virtual environment {project.venv} could not be made ({exc}). "
            "On Debian or Ubuntu, install python3-venv; then run this again."
        ) from exc


def install_packages(project: Project, goal: str) -> None:
    """The packages of `goal`'s lock file: by uv, else by pip, which needs longer."""
    lock = project.root / PACKAGES.inputs[goal][-1]
    say("Installing packages")
    try:
        run_pip(project, "uv", project.root / UV_LOCK, "--retries=1")
        run_uv(project, "The packages", lock)
    except SetupError:
        reason = first_errors(project.log)
        say(f"  uv cannot do it ({reason}); pip does, which takes a few minutes")
        run_pip(project, "The packages", lock)
    open_files(project)
    compile_packages(project)


def open_files(project: Project) -> None:
    """Give installed files the rights that this process's umask grants.

    uv links them from its cache, with the rights of whoever filled that: a service would not
    be able to read what root has installed for it.
    """
    umask = os.umask(0)
    os.umask(umask)
    for folder, _, names in os.walk(project.venv / "lib"):
        for name in names:
            file = Path(folder, name)
            mode = file.lstat().st_mode
            wanted = mode | (0o444 | (mode & 0o100 and 0o111)) & ~umask
            if stat.S_ISREG(mode) and mode != wanted:
                file.chmod(stat.S_IMODE(wanted))


def compile_packages(project: Project) -> None:
    """Byte code of all packages, made on all cores: pip would do it on one.

    Whoever runs the portal may not write it later. What does not compile is loaded as it is.
    """
    say("  compiling")
    command = [str(project.python), "-I", "-m", "compileall", "-q", "-j", "0"]
    folders = project.venv.glob("lib/python*/site-packages")
    subprocess.run(
        [*command, *map(str, folders)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def run_pip(project: Project, what: str, lock: Path, *arguments: str) -> None:
    """`pip install` of a lock file, with a line of progress now and then.

    Raises:
        SetupError: with pip's own last error line and where its whole log is.
    """
    command = [str(project.python), "-I", "-m", "pip", "install", "--no-compile", *arguments]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += [f"--requirement={lock}"]
    run_logged(project, what, command, inside_environment())


def run_uv(project: Project, what: str, lock: Path) -> None:
    """`uv pip install` of a lock file from where pip would get it. Raises as `run_pip`."""
    command = [str(project.uv), "pip", "install", "--no-progress", "--require-hashes"]
    command += [f"--python={project.python}", f"--requirement={lock}"]
    settings = pip_settings(project)
    # No variable says this to uv.
    command += ["--no-index"] if settings.get("no-index", "").lower() in _TRUE else []
    run_logged(project, what, command, uv_environment(settings))


def inside_environment() -> dict[str, str]:
    """This process's variables without those that would install elsewhere."""
    elsewhere = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONHOME", "PYTHONPATH"}
    return {k: v for k, v in os.environ.items() if k not in elsewhere}


_TRUE = {"1", "true", "yes", "on", "y", "t"}
#: pip's settings and the variables by which uv is told the same.
_FOR_UV = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "extra-index-url": ("UV_EXTRA_INDEX_URL",),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
}


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables that lead uv to where pip's settings lead: index, certificates, proxies.

    uv reads none of pip's files and variables. What is set for uv itself stays.
    """
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: all indexes count alike
    for name, variables in _FOR_UV.items():
        if value := settings.get(name):
            separator = "," if name == "find-links" else " "
            found |= dict.fromkeys(variables, separator.join(value.split()))
    bundles = (settings.get("cert"), *map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")))
    if bundle := next(filter(None, bundles), None):
        found["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
    if settings.get("keyring-provider") == "subprocess":
        found["UV_KEYRING_PROVIDER"] = "subprocess"
    if {"UV_INDEX_URL", "UV_INDEX"} & os.environ.keys():
        found.pop("UV_DEFAULT_INDEX", None)
    return found | inside_environment()


def pip_settings(project: Project) -> dict[str, str]:
    """What pip is told for `pip install` by its files and variables; later ones win."""
    asked = subprocess.run(
        [project.python, "-I", "-m", "pip", "config", "list"],
        env=inside_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    line = re.compile(r"(global|install|:env:)\.([\w-]+)=(.+)")
    found = [m.groups() for m in map(line.fullmatch, asked.stdout.splitlines()) if m]
    found.sort(key=lambda setting: ("global", "install", ":env:").index(setting[0]))
    return {name: str(ast.literal_eval(value)) for _, name, value in found}


# --- the front end -----------------------------------------------------------------


def build_front_end(project: Project, goal: str) -> None:
    """The npm packages of the lock file, and `assets/` made from them."""
    npm, environment = find_npm(project)
    say("Installing the front-end files")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    command += [] if goal == "test" else ["--omit=dev"]
    run_logged(project, "The front-end files", command, environment)
    build = [str(project.python), "-m", "ui.assets", "build"]
    run_logged(project, "The front-end files", build, dict(os.environ))


def find_npm(project: Project) -> tuple[str, dict[str, str]]:
    """The computer's npm where it is new enough, else one in the virtual environment.

    Returns:
        the program, and the environment variables to run it with.
    """
    environment = dict(os.environ)
    npm = shutil.which("npm")
    if npm and npm_version(npm, environment) >= OLDEST_NPM:
        return npm, environment
    say("Installing Node.js into .venv, since this computer has none that is new enough")
    run_pip(project, "Node.js", project.root / NODE_LOCK)
    scripts = project.venv / "bin"
    environment["PATH"] = f"{scripts}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return str(scripts / "npm"), environment


def npm_version(npm: str, environment: Mapping[str, str]) -> int:
    """Its major version; 0 where it does not run."""
    with suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            [npm, "--version"], capture_output=True, text=True, timeout=60, env=environment
        )
        if asked.returncode == 0 and (found := re.match(r"\d+", asked.stdout.strip())):
            return int(found[0])
    return 0


# --- programs and what they print ---------------------------------------------------


def run_logged(
    project: Project, what: str, command: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Run a program of the set-up; its output goes to the log, its progress to the user.

    Raises:
        SetupError: it ended with an error; `what` begins the sentence.
    """
    with project.log.open("w", encoding="utf-8", errors="replace") as log:
        try:
            with subprocess.Popen(
                command,
                cwd=project.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as program:
                try:
                    assert program.stdout is not None  # noqa: S101 - asked for above
                    copy_output(program.stdout, log)
                except BaseException:
                    program.terminate()
                    raise
        except OSError as exc:
            log.write(f"{command[0]} could not be started: {exc.strerror}")
            raise SetupError(f"{command[0]} could not be started: {exc.strerror}.") from exc
    if program.returncode:
        raise SetupError(
            f"{what} could not be installed: {first_errors(project.log)}. Check the internet "
            f"connection and the free disk space, then run this again. Log: {project.log}"
        )


def copy_output(output: IO[str], log: IO[str]) -> None:
    """Copy to `log` and tell the user how many packages pip has come to."""
    collected = 0
    for line in output:
        log.write(line)
        if line.startswith("Collecting "):
            collected += 1
            if collected % 25 == 0:
                say(f"  {collected} packages fetched")
        elif collected >= 25 and line.startswith("Installing collected packages"):
            say("  unpacking")


def first_errors(log: Path) -> str:
    """The first two lines of a log that call themselves errors, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    mark = re.compile(r"(npm )?err(or|!):?\s*|×\s*", re.IGNORECASE)
    errors = [line for line in lines if mark.match(line)][:2]
    chosen = errors or lines[-1:] or ["no reason was given"]
    return "; ".join(mark.sub("", line, count=1).rstrip(".") for line in chosen)[:300]


def say(line: str) -> None:
    """One line of progress."""
    print(line, flush=True)


PACKAGES = Part(
    "packages",
    {
        "run": (RUN_LOCK,),
        "test": (RUN_LOCK, DEV_LOCK),
    },
    ".venv",
    install_packages,
)
FRONT_END = Part(
    "front-end",
    dict.fromkeys(COVERS, ("package.json", "package-lock.json", "ui/assets.py", MAP_SCRIPTS)),
    "assets",
    build_front_end,
)
PARTS = (PACKAGES, FRONT_END)

if __name__ == "__main__":
    main(sys.argv[1:])
