# SPDX-License-Identifier: Apache-2.0
"""Experiments on devices that can be told to fail: an arc that fails in the middle, and ERROR.

The profile's error hooks of the kind `registers` say how; a device without them is tried elsewhere, with
damaged streams and failing allocations.  Each program tells the device in RUNNING which arc is to fail, once,
goes to where the arc begins and takes it.  Whether the hook works is the profile's promise and no rule: where
the arc succeeds nothing follows from that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Failing, Subject
from harness.program.script import Script
from harness.spec.arcs import SAVING_GROUP, S, State, path


def _armed(subject: Subject, hook: Failing, *, go: bool = True) -> tuple[Script, str]:
    """A program whose device will fail the hook's arc and stands at its start; the slot of the data fd."""
    s = subject.script(faults=True)
    for region, offset, data in hook.writes:
        s.op("region_write", fd="d", region=region, off=offset, hex=data)
    fd = ""
    if hook.cur == S.RESUMING:
        s.save("armed")
    if go and hook.cur != S.RUNNING:
        fd = s.set(hook.cur)
        if hook.cur == S.RESUMING:
            s.op("write_all", fd=fd, from_="armed", chunks=[1 << 16])
        elif hook.cur in SAVING_GROUP:
            s.op("read", fd=fd, n=16)
    return s, fd


def _works_again(subject: Subject, s: Script) -> None:
    """After a reset: RUNNING, and a whole save and restore."""
    if not subject.has("reset"):
        return
    s.op("reset", fd="d")
    s.op("get_state", fd="d")
    s.save("good")
    saved = s.save_set
    s.succeeds("MIG-144", saved, "the device saves after the reset")
    _, restored = s.restore("good")
    s.succeeds("MIG-144", restored, "the device restores after the reset")


def _use(s: Script, cur: State, fd: str) -> None:
    """Reads or writes the fd of the session that the arc found; the tracker knows what must come of it."""
    if cur == S.RESUMING:
        s.op("write", fd=fd, hex="00" * 4)
    elif cur in SAVING_GROUP:
        s.op("read", fd=fd, n=16)
        s.op("precopy_info", fd=fd)


@experiment("MIG-051", "MIG-059", "MIG-060", "MIG-061", "MIG-062", "MIG-063", "MIG-064", "MIG-065", "MIG-144")
def an_arc_that_fails_leaves_a_state_on_its_path(subject: Subject) -> Iterator[Script]:
    for hook in subject.failing:
        if hook.enters_error:
            continue
        s, fd = _armed(subject, hook)
        s.set(hook.new)
        s.op("debugfs_state", dev="dev0")
        _use(s, hook.cur, fd)
        # The hook works once: what failed can be asked for again.
        s.set(hook.new)
        _use(s, hook.cur, fd)
        _works_again(subject, s)
        yield s


@experiment("MIG-051", "MIG-059", "MIG-144")
def a_combination_that_fails_on_the_way_tells_how_far_it_came(subject: Subject) -> Iterator[Script]:
    """The failing arc is inside the path of the SET, not all of it."""
    for hook in subject.failing:
        for start in (S.RUNNING,) if hook.enters_error else (S.RUNNING, S.STOP):
            for target in subject.states:
                way = path(start, target, subject.flags) or ()
                if len(way) < 3 or (hook.cur, hook.new) not in itertools.pairwise(way):
                    continue
                s, _ = _armed(subject, hook, go=False)
                s.set(start)
                s.set(target)
                s.set(S.RUNNING)
                _works_again(subject, s)
                yield s


@experiment("MIG-101", "MIG-115")
def a_failed_arc_changes_nothing_of_the_state_that_migrates(subject: Subject) -> Iterator[Script]:
    """Saved, failed and saved again: the destination is what the source was."""
    if not subject.state_regions:
        return
    wanted = [h for h in subject.failing if not h.enters_error and h.new in (S.STOP_COPY, S.RESUMING)]
    for hook in wanted:
        s, _ = _armed(subject, hook, go=False)
        drains = subject.mutate(s)
        before = subject.fingerprint(s)
        s.set(hook.cur)
        s.set(hook.new)
        s.set(S.STOP)
        s.set(S.RUNNING)
        after = subject.fingerprint(s)
        assert before is not None
        assert after is not None
        s.equals("MIG-115", after, "hex", s.ref(before, "hex"), "the state before the failed SET")
        s.save("whole")
        s.op("reset", fd="d")
        s.op("get_state", fd="d")
        _, done = s.restore("whole")
        restored = subject.fingerprint(s)
        assert restored is not None
        came_back = [(done, "errno", "==", 0)]
        s.equals("MIG-101", restored, "hex", s.ref(before, "hex"), "the state that was saved").when(
            *came_back
        )
        subject.drain(s, drains)
        yield s


@experiment("MIG-059", "MIG-130", "MIG-131", "MIG-132", "MIG-133", "MIG-144")
def a_failing_arc_into_error_is_left_by_reset_only(subject: Subject) -> Iterator[Script]:
    for hook in subject.failing:
        if not hook.enters_error:
            continue
        s, fd = _armed(subject, hook)
        s.set(hook.new)
        s.op("debugfs_state", dev="dev0")
        for target in (*range(8), 8):
            s.set(target)
        _use(s, hook.cur, fd)
        s.op("get_state", fd="d")
        _works_again(subject, s)
        yield s
