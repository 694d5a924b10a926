"""The command line that every module has: `python -m modules.NAME run ...`.

Start-up is quick: what needs numba or GDAL is imported once there is work to do.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from modulekit.errors import ModuleError, UsageError
from modulekit.manifest import read_manifest, read_params

if TYPE_CHECKING:
    from modulekit.detector import Detector

EXIT_NOTHING, EXIT_USAGE = 1, 2


def main_of(package: str) -> NoReturn:
    """Run the command line of the module in `package` ("modules.active_fire") and exit."""
    sys.exit(main(package, sys.argv[1:]))


def main(package: str, argv: Sequence[str]) -> int:
    """The command line; returns the exit code.

    0 all scenes done; 1 nothing worked; 2 usage, parameters or input catalog;
    3 some scenes failed.
    """
    folder = module_folder(package)
    arguments = _parser(package).parse_args(argv)
    try:
        manifest = read_manifest(folder)
        if arguments.command == "info":
            _print_info(manifest.id, manifest.version, manifest.params_schema)
            return 0
        if arguments.command == "warm":
            load_detector(package).warm()
            return 0
        params = read_params(manifest, arguments.params)
        from modulekit.run import run

        return run(
            manifest,
            load_detector(package),
            params,
            arguments.input,
            arguments.output,
            tell=lambda line: print(line, flush=True),
        )
    except UsageError as exc:
        print(exc.message, file=sys.stderr)
        return EXIT_USAGE
    except ModuleError as exc:
        print(exc.message, file=sys.stderr)
        return EXIT_NOTHING


def module_folder(package: str) -> Path:
    """The folder of a module's package, where its `module.toml` lies."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"There is no module {package}.")
    return Path(spec.origin).parent


def load_detector(package: str) -> Detector:
    """The `DETECTOR` of `package.detector`."""
    detector: Detector = importlib.import_module(f"{package}.detector").DETECTOR
    return detector


def _parser(package: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    commands = parser.add_subparsers(dest="command", required=True)
    work = commands.add_parser("run", help="detect in all scenes of a STAC catalog")
    work.add_argument("--input", type=Path, required=True, help="folder with catalog.json")
    work.add_argument("--output", type=Path, required=True, help="folder for the results")
    work.add_argument("--params", type=Path, help="JSON file with parameters")
    commands.add_parser("info", help="print the module's id, version and parameters as JSON")
    commands.add_parser("warm", help="compile into the cache, for a quick first run")
    return parser


def _print_info(module: str, version: str, params: object) -> None:
    print(json.dumps({"id": module, "version": version, "params": params}, indent=2))
