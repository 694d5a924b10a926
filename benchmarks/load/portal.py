"""`lib.server.main`, with a gate whose jobs get benchmarks/plain_notebook in Jupyter's place:

    python -m benchmarks.load.portal CODE [arguments of lib.server.main]

CODE is a folder with that package and copies of the modules. Nothing else differs.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.server import local_gate
from lib.server import main as portal

if TYPE_CHECKING:
    from lib.config.offerings import Offerings
    from lib.config.settings import Settings

_plain = local_gate.policy_text


def main() -> int:
    code, *arguments = sys.argv[1:]

    def policy_text(settings: Settings, offerings: Offerings) -> str:
        text = _plain(settings, offerings)
        line = f"code = {json.dumps(str(PROJECT))}"
        if text.count(line) != 1:
            raise RuntimeError("the policy does not say where the code is")
        return text.replace(line, f"code = {json.dumps(code)}")

    local_gate.policy_text = policy_text
    return portal.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
