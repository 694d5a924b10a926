"""Build a job's directory: everything that the session script and the module find.

`control/` gets the spec, the certificates and the token; `work/` gets `in/` and the
notebook. A session that continues another takes its `work/` over, which was written by an
attacker: there the gate only renames by descriptor and never opens.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lib.errors import Conflict, InvalidInput
from lib.files.atomic import write_atomic, write_json
from lib.gate.certificates import make_pair
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.policy import Policy
from lib.gate.staging import STAGED
from lib.gate.validate_submit import ValidatedSubmit
from lib.jobs import control_files
from lib.jobs.control_files import SessionSpec, script_argv, script_env
from lib.jobs.interfaces import JobSpec, Scheduler
from lib.protocol.messages import JobKind, SubmitRequest

_STAC_VERSION = "1.1.0"


@dataclass(frozen=True, slots=True)
class SessionDirBuilder:
    """Builds job folders. All methods are repeatable after a crash."""

    folders: SessionFolders
    policy: Policy
    scheduler: Scheduler

    def build(
        self, request: SubmitRequest, validated: ValidatedSubmit, old: JobRecord | None
    ) -> None:
        """Everything but the record, which is written last by the caller.

        Args:
            old: the ended session whose files this one takes over.
        Raises:
            InvalidInput: a staged file is missing.
            Conflict: the old session's files are gone.
        """
        session = self.folders.session(request.id)
        control = session / "control"
        control.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = session / "work"
        if old is None:
            self.folders.throw_away(work)
            work.mkdir(mode=0o700)
        elif not work.exists():
            self._take_over(old, work)
        self._write_input(control, work, request.params, validated)
        notebook = self._place_notebook(work, request, validated)
        self._write_secrets(request.id, control)
        self._spec(request, validated, notebook).write(control)

    def job_spec(self, record: JobRecord, image: Path | None = None) -> JobSpec:
        """What goes to the scheduler; rebuilt from disk, so that a crash can be mended.

        Args:
            image: the file that was checked for this job; written into its spec.
        """
        control = self.folders.control(record.id)
        allowed = self.policy.preset(record.preset)
        if allowed is None:
            raise InvalidInput(f"The resources {record.preset} are no longer offered.")
        spec = replace(SessionSpec.read(control), image=str(image or ""), gpus=allowed.preset.gpus)
        spec.write(control)
        return JobSpec(
            name=record.name,
            argv=script_argv(control),
            env=script_env(),
            folder=control,
            output=control / control_files.JOB_LOG,
            scratch=Path(spec.scratch),
            walltime_s=record.walltime_s,
            cores=allowed.preset.cores,
            memory_mb=allowed.preset.memory_mb,
            gpus=allowed.preset.gpus,
            flags=allowed.flags,
            comment=_comment(record),
        )

    def _take_over(self, old: JobRecord, work: Path) -> None:
        try:
            (self.folders.session(old.id) / "work").rename(work)
        except FileNotFoundError as exc:
            raise Conflict("The files of that session are gone.") from exc
        fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _move_aside(fd, "out", old_out_name(old.id))
        finally:
            os.close(fd)

    def _write_input(
        self, control: Path, work: Path, params: Mapping[str, object], validated: ValidatedSubmit
    ) -> None:
        """Build `in` in `control`, then rename it into place."""
        aside = f".in-{secrets.token_hex(8)}"
        new = control / "in.new"
        self.folders.throw_away(new)
        new.mkdir(mode=0o700)
        for item in validated.items:
            folder = new / str(item["id"])
            folder.mkdir(mode=0o700)
            write_json(folder / f"{folder.name}.json", item)
        for staged in validated.staged:
            source = control / STAGED / staged.scene / staged.asset
            if not source.is_file():
                raise InvalidInput(f"Scene {staged.scene}, asset {staged.asset} was not sent.")
            os.link(source, new / staged.scene / staged.file_name)
        write_json(new / "params.json", dict(params))
        write_json(new / "catalog.json", _catalog(validated.scenes))
        fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _move_aside(fd, "in", aside)
            os.rename(new, "in", dst_dir_fd=fd)
            with contextlib.suppress(OSError):  # then it goes with the session
                self.folders.throw_away(work / aside, folder=fd)
        finally:
            os.close(fd)
        self.folders.throw_away(control / STAGED)

    def _place_notebook(
        self, work: Path, request: SubmitRequest, validated: ValidatedSubmit
    ) -> str:
        """Copy the prepared notebook unless the user's own is there. Returns its name."""
        source = validated.module.notebook
        if source is None or request.kind is not JobKind.SESSION:
            return ""
        name = f"{validated.module.id}.ipynb"
        fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=fd)
        except FileExistsError:
            return name
        finally:
            os.close(fd)
        with os.fdopen(target, "wb") as file:
            file.write(source.read_bytes())
        return name

    def _write_secrets(self, job_id: str, control: Path) -> None:
        server = make_pair(f"s-{job_id}", server=True)
        client = make_pair("scenebridge-portal", server=False)
        write_atomic(control / control_files.SERVER_CERT, server.cert)
        write_atomic(control / control_files.SERVER_KEY, server.key)
        write_atomic(control / control_files.CLIENT_CERT, client.cert)
        write_atomic(control / control_files.CLIENT_KEY, client.key)
        write_atomic(control / control_files.TOKEN, secrets.token_urlsafe(32).encode())

    def _spec(
        self, request: SubmitRequest, validated: ValidatedSubmit, notebook: str
    ) -> SessionSpec:
        scratch = Path(self.policy.scratch, f"sb-{request.id[:8]}-{secrets.token_hex(6)}")
        return SessionSpec(
            kind=request.kind.value,
            work=str(self.folders.session(request.id) / "work"),
            scratch=str(scratch),
            host=self.scheduler.endpoint_host(),
            entry=validated.module.entry,
            notebook=notebook,
            frame_origin=request.portal_origin,
            idle_s=self.policy.limits.idle_s,
            max_file_bytes=self.policy.limits.max_disk_bytes,
            readable=[str(path) for path in validated.readable],
            runtime=self.policy.runtime_name,
            runtime_options=dict(self.policy.runtime_options),
        )


def _comment(record: JobRecord) -> str:
    """Whom the job is for, for the site's own books: one line of printable ASCII."""
    owner = "".join(c if c.isascii() and c.isprintable() else "?" for c in record.owner)
    return f"SceneBridge {record.kind.value} {record.id} for {owner[:100]}"


def old_out_name(job_id: str) -> str:
    """What `out` of a continued session is called in the session that took it over."""
    return f"out-{job_id[:8]}"


def _move_aside(folder: int, name: str, new_name: str) -> None:
    """Rename within an open folder; a link is renamed itself, never followed."""
    try:
        os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise Conflict("The files of that session cannot be taken over.") from exc


def _catalog(scenes: list[str]) -> dict[str, object]:
    links = [
        {"rel": "item", "href": f"./{scene}/{scene}.json", "type": "application/geo+json"}
        for scene in scenes
    ]
    root = {"rel": "root", "href": "./catalog.json", "type": "application/json"}
    return {
        "type": "Catalog",
        "stac_version": _STAC_VERSION,
        "id": "input",
        "description": "The scenes of this job.",
        "links": [root, *links],
    }
