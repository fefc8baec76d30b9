# SPDX-License-Identifier: Apache-2.0
"""Experiments with everything that the profile can change at once: no part of the state is left to chance."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.spec.arcs import S
from suites.mig.experiments_interface import open_device


@experiment("MIG-101", own_open=True)
def every_part_of_the_state_is_restored(subject: Subject) -> Iterator[Script]:
    """Onto a device that is as new, and what is as new onto a device that is not.

    The device is opened for it: a reset does not make all of it new, configuration space for one.
    """
    if not subject.state_regions:
        return
    for changed_first in (True, False):
        s = Script(fresh=False)
        open_device(s)
        if subject.has("reset"):
            s.op("reset", fd="d")
        s.set(S.RUNNING)
        if changed_first:
            subject.mutate(s, count=len(subject.mutations))
        s.set(S.STOP)
        saved = _fingerprint(subject, s)
        s.save("stream")
        if subject.has("reset"):
            s.op("reset", fd="d")
            s.op("get_state", fd="d")
        else:
            s.set(S.RUNNING)
        if not changed_first:
            subject.mutate(s, count=len(subject.mutations))
        _, done = s.restore("stream")
        _is_the_saved_one(subject, s, "MIG-101", saved, done)
        yield s


@experiment("MIG-118")
def everything_changed_in_pre_copy_is_restored(subject: Subject) -> Iterator[Script]:
    """All that PRE_COPY had to send was read before anything changed."""
    if not subject.has("pre_copy") or not subject.state_regions:
        return
    s = subject.script()
    fd = s.set(S.PRE_COPY)
    s.read_stream(fd, "pre", [4096])
    subject.mutate(s, count=len(subject.mutations))
    s.set(S.STOP_COPY)
    saved = _fingerprint(subject, s)
    s.read_stream(fd, "rest", [4096])
    s.op("bytes", out="stream", concat=["pre", "rest"])
    s.op("reset", fd="d") if subject.has("reset") else s.set(S.RUNNING)
    s.op("get_state", fd="d")
    _, done = s.restore("stream")
    _is_the_saved_one(subject, s, "MIG-118", saved, done)
    yield s


@experiment("MIG-085", "MIG-086", "MIG-089")
def initial_bytes_do_not_count_what_becomes_dirty(subject: Subject) -> Iterator[Script]:
    if not subject.has("pre_copy"):
        return
    for read_first in ("nothing", "one byte", "all"):
        s = subject.script()
        fd = s.set(S.PRE_COPY)
        if read_first == "one byte":
            s.op("read", fd=fd, n=1)
        elif read_first == "all":
            s.read_stream(fd)
        s.op("precopy_info", fd=fd)
        subject.mutate(s, count=len(subject.mutations))
        s.op("precopy_info", fd=fd)
        s.op("read", fd=fd, n=1)
        s.op("precopy_info", fd=fd)
        yield s


def _fingerprint(subject: Subject, s: Script) -> int:
    index = subject.fingerprint(s)
    assert index is not None
    return index


def _is_the_saved_one(subject: Subject, s: Script, clause: str, saved: int, done: int) -> None:
    restored = _fingerprint(subject, s)
    s.equals(clause, restored, "hex", s.ref(saved, "hex"), "the saved state").when(succeeded(done))
