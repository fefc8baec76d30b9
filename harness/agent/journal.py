# SPDX-License-Identifier: Apache-2.0
"""The undo journal: how to undo a change is on disk before the change is made.

One file per step, `<root>/journal/<run>/NNNN.json`.  A run's folder is locked while its agent lives, so that
an undo without controller state undoes what dead runs left and leaves live runs alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re

from .failure import Failure

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

    Undo = Callable[[Any], str]  # takes a step, gives "undone" or "already"; raises if it cannot

__all__ = ["Journal", "run_root", "undo_run", "undo_runs"]

_STEP = re.compile(r"^[0-9]{4,8}\.json$")
_RUN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_OWNER = "owner.lock"


def run_root() -> str:
    """Return the root folder of all journals, `/run/vfiocert`; a reboot clears it and the changes alike."""
    return os.environ.get("VFIOCERT_RUN_DIR", "/run/vfiocert")


def check_run_name(run: str) -> str:
    """Return `run`; Failure `usage` if it is not a plain name."""
    if not _RUN.match(run):
        raise Failure(
            "usage", "run=%r is not 1 to 128 of A-Z a-z 0-9 . _ - beginning with a letter or digit" % run
        )
    return run


class Journal:
    """The journal of this agent's run; nothing is on disk before the first step."""

    def __init__(self, root: str, run: str) -> None:
        self.run = check_run_name(run)
        self.folder = os.path.join(root, "journal", run)
        self._lock_fd = -1
        self._count = 0

    def _open(self) -> None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(self.folder, _OWNER), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise Failure("lab", "run %s is in use by another agent on this host" % self.run)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock_fd = fd
        numbers = [int(name[:-5]) for name in os.listdir(self.folder) if _STEP.match(name)]
        self._count = max(numbers, default=0)

    def before(self, step: dict[str, Any]) -> str:
        """Write to disk how to undo a change, before it is made; return the path of the step."""
        if self._lock_fd < 0:
            self._open()
        self._count += 1
        path = os.path.join(self.folder, "%04d.json" % self._count)
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(step, sort_keys=True).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
        _fsync_folder(self.folder)
        return path

    def forget(self, path: str) -> None:
        """Drop the step at `path` (from `before`): its change was refused, so there is nothing to undo."""
        os.unlink(path)

    def undo(self, undo: Undo) -> list[dict[str, Any]]:
        """Undo every step of this run, the last one first."""
        if self._lock_fd < 0:
            return []
        done = undo_run(self.folder, undo)
        if not _steps(self.folder):
            _remove(self.folder)
            os.close(self._lock_fd)
            self._lock_fd = -1
            self._count = 0
        return done


def _fsync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno != errno.EINVAL:  # EINVAL: a file system without fsync
            raise
    finally:
        os.close(fd)


def _steps(folder: str) -> list[str]:
    return sorted((n for n in os.listdir(folder) if _STEP.match(n)), key=lambda n: int(n[:-5]), reverse=True)


def undo_run(folder: str, undo: Undo) -> list[dict[str, Any]]:
    """Undo the steps in one run's folder, the last one first; a step that fails stays there."""
    run = os.path.basename(folder)
    done = []
    for name in _steps(folder):
        path = os.path.join(folder, name)
        entry = {"run": run, "step": int(name[:-5])}
        try:
            with open(path, encoding="utf-8") as file:
                step = json.load(file)
            if not isinstance(step, dict) or not isinstance(step.get("undo"), str):
                raise ValueError("%s is not an undo step" % path)
            entry["undo"] = step["undo"]
            entry["subject"] = step.get("subject", "")
            entry["status"] = undo(step)
            os.unlink(path)
        except (OSError, ValueError, KeyError, TypeError, Failure) as e:
            entry["status"] = "failed: %s" % e
        done.append(entry)
    return done


def undo_runs(root: str, run: str | None, own: Journal, undo: Undo) -> list[dict[str, Any]]:
    """Undo run `run`, or with None this agent's own run and all runs whose agent is dead."""
    base = os.path.join(root, "journal")
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        names = []
    if run is not None:
        check_run_name(run)
        names = [name for name in names if name == run]
    done = []
    for name in names:
        folder = os.path.join(base, name)
        if not _RUN.match(name) or not os.path.isdir(folder):
            continue
        if name == own.run:
            done += own.undo(undo)
            continue
        fd = os.open(os.path.join(folder, _OWNER), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            done.append(
                {"run": name, "step": 0, "undo": "", "status": "skipped: its agent lives (pid %s)" % pid}
            )
            os.close(fd)
            continue
        done += undo_run(folder, undo)
        if not _steps(folder):
            _remove(folder)
        os.close(fd)
    return done


def _remove(folder: str) -> None:
    import shutil  # slow to import, and seldom needed

    shutil.rmtree(folder, ignore_errors=True)
