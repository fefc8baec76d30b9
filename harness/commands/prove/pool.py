# SPDX-License-Identifier: Apache-2.0
"""Run trials in parallel: a lab for each slot, and for each trial a forked child with all imports done.

A trial that outlives its limit is killed, and what it wrote is kept; a lab that does not come back from its
snapshot is replaced by a new one, and its trial is tried once more.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import select
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fixtures.controller import chapters
from harness.commands.prove.result import Result, read_events
from harness.commands.prove.trial import Job, run_trial
from harness.errors import LabError
from harness.hosts.client import bundle
from harness.lab.embedded import EmbeddedLab, new_name
from harness.profiles import load_profile, profile_names
from harness.progress import NoProgress, Progress

__all__ = ["Pool"]

_IDLE_LIMIT_S = 60.0
_GRACE_S = 20.0
"""Seconds beyond its limit that a trial has to end the current test."""


@dataclass
class _Slot:
    lab: EmbeddedLab
    flavour: str
    job: Job | None = None
    pid: int = 0
    pidfd: int = -1
    until: float = 0.0
    folder: Path = Path()
    again: bool = False
    """Whether this job is tried for the second time."""


class Pool:
    """`with Pool(2, "plain", folder, progress) as pool: for result in pool.run(jobs): ...`"""

    def __init__(
        self, size: int, flavour: str, folder: Path, progress: Progress, scratch_gib: int = 0
    ) -> None:
        self.folder = folder
        self.scratch_gib = scratch_gib
        self._slots: list[_Slot] = []
        try:
            for _ in range(size):
                self._slots.append(_Slot(_lab(flavour, progress, scratch_gib), flavour))
        except BaseException:
            self.close()
            raise
        _import_everything()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the running trials, and end the labs."""
        for slot in self._slots:
            if slot.job is not None:
                self._kill(slot)
            with contextlib.suppress(LabError):
                slot.lab.down()
        self._slots = []

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Run jobs in order, as slots become free, and yield each result when it is there."""
        waiting = deque((job, False) for job in jobs)
        while waiting or any(slot.job is not None for slot in self._slots):
            for slot in self._slots:
                if slot.job is None and waiting:
                    self._start(slot, *waiting.popleft())
            for slot in self._ended():
                job, again = slot.job, slot.again
                assert job is not None
                result = self._reap(slot)
                if result.lab_fault and not result.seen and not again:
                    self._renew(slot)
                    waiting.appendleft((job, True))
                    continue
                yield result

    def _start(self, slot: _Slot, job: Job, again: bool) -> None:
        slot.folder = self.folder / "trials" / job.name
        shutil.rmtree(slot.folder, ignore_errors=True)
        slot.folder.mkdir(parents=True)
        slot.job, slot.again = job, again
        slot.until = time.monotonic() + job.limit_s + _GRACE_S
        pid = os.fork()
        if pid == 0:
            _in_child(job, slot.lab.name, slot.folder)
        slot.pid = pid
        slot.pidfd = os.pidfd_open(pid)

    def _ended(self) -> list[_Slot]:
        """Wait for a trial to end or to use up its time; return the slots of all such trials."""
        busy = [slot for slot in self._slots if slot.job is not None]
        left = max(0.0, min(slot.until for slot in busy) - time.monotonic())
        ready, _, _ = select.select([slot.pidfd for slot in busy], [], [], left)
        for slot in self._slots:
            slot.lab.touch()
        return [s for s in busy if s.pidfd in ready or time.monotonic() >= s.until]

    def _reap(self, slot: _Slot) -> Result:
        job = slot.job
        assert job is not None
        killed = time.monotonic() >= slot.until
        if killed:
            self._kill(slot)
        else:
            os.waitpid(slot.pid, 0)
            os.close(slot.pidfd)
        slot.job = None
        return read_events(job, slot.folder / "events.jsonl", killed=killed)

    @staticmethod
    def _kill(slot: _Slot) -> None:
        """Kill the child and what it started; the child leads its own session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(slot.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(slot.pid, 0)
        with contextlib.suppress(OSError):
            os.close(slot.pidfd)

    def _renew(self, slot: _Slot) -> None:
        with contextlib.suppress(LabError):
            slot.lab.down()
        slot.lab = _lab(slot.flavour, NoProgress(), self.scratch_gib)


def _lab(flavour: str, progress: Progress, scratch_gib: int) -> EmbeddedLab:
    return EmbeddedLab.up(
        name=new_name("prove"), flavour=flavour, idle_limit_s=_IDLE_LIMIT_S, scratch_gib=scratch_gib,
        progress=progress,
    )  # fmt: skip


def _in_child(job: Job, lab_name: str, folder: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        run_trial(job, lab_name, folder)
    finally:
        os._exit(1)


def _import_everything() -> None:
    """Import and read what trials need, so that no child has to, and all use the same version."""
    bundle()
    for profile in profile_names():
        load_profile(profile)
    for chapter in chapters():
        package = f"suites.{chapter.name}"
        for module in pkgutil.iter_modules([str(chapter)]):
            importlib.import_module(f"{package}.{module.name}")
