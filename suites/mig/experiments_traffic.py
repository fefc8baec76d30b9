# SPDX-License-Identifier: Apache-2.0
"""Quiescence with traffic: what a device that was busy may do in each state, and what it does afterwards.

Each program shows first that the traffic goes: without that, silence in STOP proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fixtures.experiment import experiment
from fixtures.subject import Subject
from fixtures.traffic_script import TrafficScript, engine_of
from harness.program.pages import PAGE
from harness.program.script import Script, succeeded
from harness.spec.arcs import S, State

_SETTLE_MS, _SOON_MS = 5, 3000
_PERIOD_MS = 2
_DELAYS_MS = (0, 1, 3, 8, 20)


def _can(subject: Subject, *gifts: str) -> bool:
    return subject.has("migration") and all(subject.has(f"engine_{gift}") for gift in gifts)


def _stopped(subject: Subject) -> list[tuple[State, ...]]:
    """The states in which a device is stopped; without a stream RESUMING is left by a reset alone."""
    return [(S.STOP,), (S.STOP_COPY,), *([(S.RESUMING,)] if subject.has("reset") else [])]


def _ways(subject: Subject) -> list[tuple[State, ...]]:
    """Ways from RUNNING into the states in which a device is stopped."""
    ways = _stopped(subject)
    if subject.has("pre_copy"):
        ways.append((S.PRE_COPY, S.STOP_COPY))
    if subject.has("p2p"):
        ways.append((S.RUNNING_P2P, S.STOP))
        if subject.has("pre_copy"):
            ways.append((S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY))
    return ways


def _go(s: TrafficScript, way: Sequence[State]) -> None:
    for state in way:
        s.set(state)


def _wait_ms(s: TrafficScript) -> int:
    """As long as a few commands of the engine take."""
    return 20 if s.quick or s.engine is None else int(1.6 * s.engine.cost_ms)


def _silent(s: TrafficScript, clause: str, when: Sequence[tuple[int, str, str, object]], where: str) -> None:
    """Append the claim that the device writes nothing for a while."""
    s.fill()
    s.op("sleep", ms=_wait_ms(s))
    seen = s.seen()
    s.equals(clause, seen, "pages", 0, f"no page of memory changes in {where}").when(*when)


@experiment("MIG-129", "MIG-172", traffic=True)
def endless_dma_rests_while_the_device_is_stopped(subject: Subject) -> Iterator[Script]:
    """The device writes without end when it is stopped, on every way there; afterwards it goes on."""
    if not _can(subject, "endless"):
        return
    for way in _ways(subject):
        s = TrafficScript(subject)
        assert s.traffic is not None
        s.traffic.start(s.at(1), 2 * s.block)
        going = [(s.changed(1), "done", "==", True)]
        _go(s, way)
        _silent(s, "MIG-129", going, way[-1].name)
        if way[-1] != S.RESUMING:  # which takes a stream to be left by SET
            s.set(S.RUNNING)
            again = s.changed(1)
            s.equals("MIG-172", again, "done", True, "the traffic goes on in RUNNING").when(*going)
            s.traffic.stop()
        s.end_traffic()
        yield s


@experiment("MIG-129", "MIG-172", traffic=True)
def a_busy_device_is_stopped_at_any_moment(subject: Subject) -> Iterator[Script]:
    """STOP and RUNNING again and again while it writes without end; in STOP nothing is written."""
    if not _can(subject, "endless"):
        return
    s = TrafficScript(subject)
    assert s.traffic is not None
    s.traffic.start(s.at(0), 16 * s.block)
    going = [(s.changed(0), "done", "==", True)]
    for _ in range(12):
        s.op("sleep", ms=subject.rng.choice((0, 1, 2, 3)))
        s.set(subject.rng.choice((S.STOP, S.STOP_COPY)))
        s.fill()
        s.op("sleep", ms=_SETTLE_MS)
        seen = s.seen()
        s.equals("MIG-129", seen, "pages", 0, "no page of memory changes").when(*going)
        s.set(S.RUNNING)
    again = s.changed(0)
    s.equals("MIG-172", again, "done", True, "the traffic goes on in RUNNING").when(*going)
    s.traffic.stop()
    s.end_traffic()
    yield s


@experiment("MIG-129", "MIG-170", "MIG-176", traffic=True)
def work_under_way_is_over_when_the_device_is_stopped(subject: Subject) -> Iterator[Script]:
    """DMA is begun, the device is stopped; memory is as it stays, and the work is done in RUNNING at last."""
    if not _can(subject, "begin"):
        return
    engine = engine_of(subject)
    assert engine is not None
    for way in _ways(subject):
        for delay in subject.rng.sample(_DELAYS_MS, 3) if engine.cost_ms < 20 else (0,):
            s = TrafficScript(subject)
            assert s.traffic is not None
            length = min(16 * s.block, engine.reach.max_bytes)
            s.traffic.begin(s.at(2), length, delay_ms=delay)
            # As it begins, as it goes on, as it ends: nobody knows how long any of them takes.
            slow = (0, int(engine.cost_ms / 2))
            s.op("sleep", ms=subject.rng.choice((0, delay, delay + 2, delay + 5) if s.quick else slow))
            _go(s, way)
            at_once = s.seen()
            s.op("sleep", ms=_wait_ms(s) + delay)
            later = s.seen()
            for clause in ("MIG-170", "MIG-129"):
                expected = "memory is as it was when SET returned"
                s.equals(clause, later, "ranges", Script.ref(at_once, "ranges"), expected)
            if way[-1] != S.RESUMING:
                s.set(S.RUNNING)
                done = s.traffic.wait()
                s.equals("MIG-176", done, "done", True, "the work is done in RUNNING")
                pages, all_of_it = -(-length // PAGE), "all of the block is written"
                s.equals("MIG-176", s.seen(), "pages", pages, all_of_it).when((done, "done", "==", True))
            s.end_traffic()
            yield s


@experiment("MIG-175", traffic=True)
def dma_asked_for_in_a_stopped_device_waits(subject: Subject) -> Iterator[Script]:
    """The user does not keep away from a stopped device: it may note the command or refuse it, not run it."""
    if not _can(subject, "begin"):
        return
    for way in _stopped(subject):
        for delay in (0, 2):
            s = TrafficScript(subject)
            assert s.traffic is not None
            _go(s, way)
            s.traffic.begin(s.at(3), s.block, delay_ms=delay)  # the memory still is as it was filled
            s.op("sleep", ms=_wait_ms(s) + delay)
            expected = f"no page of memory changes in {way[-1].name}"
            s.equals("MIG-175", s.seen(), "pages", 0, expected)
            if way[-1] != S.RESUMING:
                s.set(S.RUNNING)
                s.op("sleep", ms=_wait_ms(s))
            s.end_traffic()
            yield s


@experiment("MIG-170", "MIG-171", "MIG-172", traffic=True)
def no_peer_to_peer_dma_in_p2p_states(subject: Subject) -> Iterator[Script]:
    """Marked traffic rests in RUNNING_P2P and PRE_COPY_P2P and goes on after them; so does all of a device
    that marks none.
    """
    if not (_can(subject, "p2p", "begin") and subject.has("p2p")):
        return
    ways: list[tuple[State, ...]] = [(S.RUNNING_P2P,)]
    if subject.has("pre_copy"):
        ways += [(S.PRE_COPY, S.PRE_COPY_P2P), (S.RUNNING_P2P, S.PRE_COPY_P2P)]
    for way in ways:
        if subject.has("engine_endless"):
            s = TrafficScript(subject)
            assert s.traffic is not None
            s.traffic.start(s.at(1), s.block, p2p=True)
            going = [(s.changed(1), "done", "==", True)]
            _go(s, way)
            _silent(s, "MIG-171", going, way[-1].name)
            s.set(S.RUNNING)
            again = s.changed(1)
            s.equals("MIG-172", again, "done", True, "the traffic goes on in RUNNING").when(*going)
            s.traffic.stop()
            s.end_traffic()
            yield s
        s = TrafficScript(subject)
        assert s.traffic is not None
        s.traffic.begin(s.at(2), s.block, delay_ms=subject.rng.choice(_DELAYS_MS), p2p=True)
        _go(s, way)
        at_once = s.seen()
        s.op("sleep", ms=_wait_ms(s) + max(_DELAYS_MS))
        later = s.seen()
        expected = "memory is as it was when SET returned"
        s.equals("MIG-170", later, "ranges", Script.ref(at_once, "ranges"), expected)
        s.set(S.RUNNING)
        s.traffic.wait()
        _go(s, way)
        s.fill()
        s.traffic.begin(s.at(5), s.block, delay_ms=0, p2p=True)
        s.op("sleep", ms=_wait_ms(s))
        expected = f"no page of memory changes in {way[-1].name}"
        s.equals("MIG-171", s.seen(), "pages", 0, expected)
        s.set(S.RUNNING)
        s.traffic.wait()
        s.end_traffic()
        yield s


@experiment("MIG-173", traffic=True)
def the_internal_state_of_a_busy_device_rests(subject: Subject) -> Iterator[Script]:
    """Counters and registers are the same twice in STOP, with traffic and a timer running before."""
    if not (_can(subject, "quiesces") and subject.state_regions):
        return
    for state in (S.STOP, S.STOP_COPY):
        s = TrafficScript(subject)
        assert s.traffic is not None
        if subject.has("engine_timer"):
            s.traffic.timer(_PERIOD_MS)
        if subject.has("engine_endless"):
            s.traffic.start(s.at(1), s.block)
            s.changed(1)
        else:
            s.traffic.begin(s.at(1), s.block)
        s.set(state)
        before = subject.fingerprint(s)
        s.op("sleep", ms=_wait_ms(s))
        after = subject.fingerprint(s)
        assert before is not None
        assert after is not None
        expected = "the state regions are as they were"
        s.equals("MIG-173", after, "hex", Script.ref(before, "hex"), expected)
        s.end_traffic()
        yield s


@experiment("MIG-174", traffic=True)
def a_restored_device_goes_on_with_the_traffic(subject: Subject) -> Iterator[Script]:
    """Saved while it writes without end, reset, restored: silent until RUNNING, then it writes again."""
    if not (_can(subject, "endless") and subject.has("reset")):
        return
    s = TrafficScript(subject)
    assert s.traffic is not None
    s.traffic.start(s.at(1), 2 * s.block)
    going = [(s.changed(1), "done", "==", True)]
    s.save("stream")
    s.op("reset", fd="d")
    s.op("get_state", fd="d")
    _, restored = s.restore("stream")
    _silent(s, "MIG-174", [*going, (restored, "errno", "==", 0)], "STOP after RESUMING")
    s.set(S.RUNNING)
    again = s.changed(1)
    s.equals("MIG-174", again, "done", True, "the restored device writes as the saved one did").when(
        *going, succeeded(restored)
    )
    s.traffic.stop()
    s.end_traffic()
    yield s


@experiment("MIG-128", "MIG-177", traffic=True)
def a_stopped_device_raises_no_interrupt(subject: Subject) -> Iterator[Script]:
    """A timer runs, or an interrupt is asked for, in a stopped device; afterwards they come again."""
    if not _can(subject, "interrupt"):
        return
    for way in _ways(subject):
        yield _silenced(subject, TrafficScript(subject), way)


@experiment("MIG-128", "MIG-177", own_open=True, traffic=True)
def interrupts_come_again_after_the_first_stop(subject: Subject) -> Iterator[Script]:
    """As above on an open of its own: no earlier STOP can have silenced the device for good."""
    if _can(subject, "interrupt"):
        yield _silenced(subject, TrafficScript(subject, own=True), (S.STOP,))


def _silenced(subject: Subject, s: TrafficScript, way: Sequence[State]) -> TrafficScript:
    assert s.traffic is not None
    s.op("eventfd", out="event", nonblock=True)
    s.traffic.arm("event")
    if subject.has("engine_timer"):
        s.traffic.timer(_PERIOD_MS)
    else:
        s.traffic.interrupt()
    came = [(s.op("eventfd_read", fd="event", timeout_ms=_SOON_MS), "errno", "==", 0)]
    _go(s, way)
    s.op("sleep", ms=_SETTLE_MS)  # one that was raised before may still be on its way
    s.op("eventfd_read", fd="event")
    s.op("sleep", ms=4 * _SETTLE_MS)
    expected = f"no interrupt in {way[-1].name}"
    s.is_refused("MIG-128", s.op("eventfd_read", fd="event"), expected=expected).when(*came)
    s.traffic.interrupt()
    s.op("sleep", ms=2 * _SETTLE_MS)
    s.is_refused("MIG-128", s.op("eventfd_read", fd="event"), expected=expected).when(*came)
    if way[-1] != S.RESUMING:
        s.set(S.RUNNING)
        s.traffic.interrupt()
        index = s.op("eventfd_read", fd="event", timeout_ms=_SOON_MS)
        s.succeeds("MIG-177", index, "an interrupt comes in RUNNING").when(*came)
    if subject.has("engine_timer"):
        s.traffic.timer(0)
    s.end_traffic()
    return s
