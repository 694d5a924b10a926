"""schemathesis tries docs/openapi.yaml on a running portal: what is drawn from it, what breaks
it, and methods that it does not name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lib.model import EndReason, RunState, SessionId, SessionState, User
from lib.scenes.local_catalog import LocalCatalog
from tests.crowd import SCENE, Crowd
from tests.fakes.described import OPENAPI
from tests.fakes.things import a_detection, a_run, a_session, new_id

#: The same requests at each run. Addresses lead to what is there three times in four.
SETTINGS = """
seed = 1
cache.enabled = false
continue-on-failure = true
generation.max-examples = 4
generation.deterministic = true
generation.with-security-parameters = false
phases.stateful.enabled = false
# TRACE ends at the server (tests/security/test_http_hardening.py).
phases.coverage.unexpected-methods = ["get", "put", "post", "delete", "options", "patch", "query"]
# What is wrong in a way that no schema can say is told with 422.
checks.positive_data_acceptance.expected-statuses = ["2xx", "403", "404", "409", "414", "422"]
checks.negative_data_rejection.expected-statuses = ["403", "404", "405", "409", "414", "422"]
warnings = false
"""
KNOWN = """
[dictionaries.{name}]
values = ["{value}"]
"""
PATHS = """
[parameters]
"path.scene" = { dictionary = "scene", probability = 0.75 }
"path.run" = { dictionary = "run", probability = 0.75 }
"path.session" = { dictionary = "session", probability = 0.75 }
"""


def ended_work(there: Crowd, owner: User) -> dict[str, str]:
    """A run that is over, with an object, and a notebook that has ended."""
    work = there.store.work
    scenes = [LocalCatalog(there.data / "scenes").get(a_run(SCENE).scenes[0].scene)]
    run, session = a_run(SCENE, owner=owner, state=RunState.DONE), SessionId(new_id())
    inside = a_run(SCENE, owner=owner, session=session, state=RunState.CANCELLED)
    ended = {"state": SessionState.ENDED, "end_reason": EndReason.FINISHED}
    work.add_session(a_session(inside, session, **ended), inside, scenes)
    work.add_run(run, scenes)
    there.store.detections.put([a_detection(run.id, scene=SCENE)])
    return {"scene": SCENE, "run": run.id, "session": session}


@pytest.mark.slow
def test_every_answer_is_described_and_none_is_a_server_s_error(
    there: Crowd, tmp_path: Path
) -> None:
    who = there.sign_in("ada")  # no token reads the audit log
    known = "".join(KNOWN.format(name=n, value=v) for n, v in ended_work(there, who.user).items())
    (tmp_path / "schemathesis.toml").write_text(SETTINGS + PATHS + known)
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(OPENAPI), "--checks=all"]
    command += [f"--url={there.origin}", f"--header=Origin: {there.origin}"]
    command += [f"--header=Cookie: {who.cookie}"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
