# SPDX-License-Identifier: Apache-2.0
"""Runs programs: threads, barriers, actors, and the deadlines that turn a silent hang into a report.

Two times matter.  `op_ms` is how long one operation may take: one that takes longer hangs, and its program is
abandoned (its threads stop at their next operation, its session is forgotten, the agent goes on).
`deadline_ms` is how long the whole program may take: no operation begins after it, which is no fault of the
device.  The first operation that a thread did not begin, or did only in part, has a record marked `cut`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from threading import get_native_id

from .actor import Actor
from .failure import ActorGone, Failure
from .operations import HERE_OPS, WAITING_OPS
from .perform import perform, skipped
from .slots import Context, NoSlot, Slots
from .validation import check_program

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Executor", "Overdue"]

_GRACE_NS = 500_000_000
_STALL_NS = 1_000_000_000  # a watcher that was not run for so long says that the host stood still
_STILL_NS = 2_000_000_000  # a thread that used no CPU time for so long waits, and does not work
_SLOW_NS = 60_000_000_000  # beyond its limit: an operation that works for so long may never end
_TICKS = os.sysconf("SC_CLK_TCK")
_now = time.monotonic_ns


class Overdue(Exception):
    """A program came back after it had been reported as hung."""


class _Thread:
    """One thread of a running program."""

    __slots__ = ("actor", "ended", "index", "name", "ops", "since_ns", "tid")

    def __init__(self, name: str, actor: str | None, ops: list[Any]) -> None:
        self.name = name
        self.actor = actor
        self.ops = ops
        self.index = -1  # of the operation under way; len(ops) when all are done
        self.since_ns = _now()  # when that operation began, or last advanced by a step of its own
        self.ended = False
        self.tid = 0


class RunningProgram:
    """One program under way; shared by its threads."""

    def __init__(
        self, slots: Slots, program: dict[str, Any], threads: list[_Thread], session: str | None
    ) -> None:
        self.slots = slots
        self.session = session
        self.devices = program.get("devices", {})
        self.threads = threads
        self.deadline_ns = _now() + program.get("deadline_ms", 20000) * 1_000_000
        self.op_ns = program.get("op_ms", 20000) * 1_000_000
        self.trace: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self.stopped = False
        self.has_actors = any(thread.actor is not None for thread in threads)
        self._left = len(threads)
        self._used, self._since = -1, 0
        self.busy_ms = program.get("busy_ms", 0)
        self._lock = threading.Lock()
        self._answered = threading.Lock()
        self._barriers: dict[str, threading.Barrier] = {}
        self.others_done: threading.Event | None = None
        self._start: threading.Barrier | None = None
        self._actor_event: threading.Condition | None = None
        if len(threads) > 1:
            self.others_done = threading.Event()
            self._start = threading.Barrier(len(threads))
            self._actor_event = threading.Condition(self._lock)

    def claim(self) -> bool:
        """Return whether the caller is the one that may answer for this program."""
        return self._answered.acquire(False)

    def barrier(self, name: str, parties: int) -> threading.Barrier:
        """Return the program's barrier `name`, made by who comes first."""
        with self._lock:
            found = self._barriers.get(name)
            if found is None:
                found = self._barriers[name] = threading.Barrier(max(1, parties))
            return found

    def start_actor(self, name: str) -> int:
        """Fork the actor `name`, tell threads that wait for it, and return its pid."""
        actor = self.slots.actors[name] = Actor.start(name, self.slots, self.devices)
        if self._actor_event is not None:
            with self._actor_event:
                self._actor_event.notify_all()
        return actor.pid

    def run_thread(self, thread: _Thread) -> None:
        """The body of one thread of the program; the last one to finish closes the slots."""
        thread.tid = get_native_id()
        try:
            if self._start is not None:
                self._start.wait(max(0.001, (self.deadline_ns - _now()) / 1e9))
            if thread.actor is None:
                self._run_ops(thread)
            else:
                self._run_actor_ops(thread, thread.actor)
        except (threading.BrokenBarrierError, NoSlot):
            pass  # not all threads could start, or the actor was never forked: no records of this thread
        except Failure as e:
            self._fail(e)
        except Exception as e:
            # Whatever it is, the agent must answer: this is a bug here, told as such.
            from traceback import format_exc  # dear to import, and never needed

            self._fail(Failure("agent", "%s: %s" % (type(e).__name__, e), traceback=format_exc()))
        thread.index, thread.since_ns = max(thread.index, 0), _now()
        with self._lock:
            self._left -= 1
            last = self._left == 0
        thread.ended = not last
        if last:
            self.slots.close_rest(self.slots.keep)
            if self.others_done is not None:
                self.others_done.set()

    def _fail(self, failure: Failure) -> None:
        self.failure = self.failure or failure
        self.stopped = True

    def _cut(self, thread: _Thread, index: int, now: int) -> bool:
        """Whether the program's time is over, so that this operation may not begin; the trace then says so.

        The first operation always begins: a program that does nothing tells nothing."""
        if not index or now < self.deadline_ns:
            return False
        record = skipped(thread.name, index, thread.ops[index][0], now, "the program's time was over")
        self.trace.append({**record, "cut": True})
        thread.index = len(thread.ops)
        return True

    def _run_ops(self, thread: _Thread) -> None:
        ctx = Context(self.slots, self.devices, self.deadline_ns, self, thread)
        append = self.trace.append
        name = thread.name
        for index, op in enumerate(thread.ops):
            thread.since_ns = now = _now()
            if self.stopped or self._cut(thread, index, now):
                return
            thread.index = index
            append(perform(ctx, op, name, index))
        thread.index = len(thread.ops)

    def _run_actor_ops(self, thread: _Thread, actor_name: str) -> None:
        ctx = Context(self.slots, self.devices, self.deadline_ns, self, thread)
        if actor_name not in self.slots.actors and self._actor_event is not None:
            with self._actor_event:  # it is forked by another thread of this program
                self._actor_event.wait_for(
                    lambda: self.stopped or actor_name in self.slots.actors, max(0.0, ctx.remaining_s() - 0.2)
                )
        actor: Actor = self.slots.actors[actor_name]
        for index, op in enumerate(thread.ops):
            thread.since_ns = now = _now()
            if self.stopped or self._cut(thread, index, now):
                return
            thread.index = index
            if op[0] in HERE_OPS:
                record = perform(ctx, op, thread.name, index)
            else:
                t0 = _now()
                try:
                    record = actor.run(op, self.deadline_ns)
                except ActorGone as e:
                    record = skipped(thread.name, index, op[0], t0, str(e))
                if "failure" in record:
                    raise Failure("usage", record["failure"])
                record["t"], record["i"] = thread.name, index
            self.trace.append(record)
        thread.index = len(thread.ops)

    def excuse(self, stalled_ns: int) -> None:
        """Give back the time for which the whole host stood still."""
        self.deadline_ns += stalled_ns
        for thread in self.threads:
            thread.since_ns += stalled_ns

    def late(self, now: int) -> bool:
        """Whether an operation, or the last step of one of many steps, has taken longer than any may."""
        return any(now > self._began_ns(t) + self.op_ns for t in self.threads if not t.ended)

    def _began_ns(self, thread: _Thread) -> int:
        """When what the thread does now began; what waits for others has the program's time first."""
        ops, index = thread.ops, thread.index
        waits = index < 0 or (index < len(ops) and ops[index][0] in WAITING_OPS)
        return max(thread.since_ns, self.deadline_ns + _GRACE_NS) if waits else thread.since_ns

    def waits(self) -> bool:
        """Whether what does not come back has used no CPU time for a while: a slow host is no hang."""
        used = sum(_cpu_ticks(self._place(thread)) for thread in self.threads)
        now = _now()
        if used != self._used:
            self._used, self._since = used, now
        return now - self._since > _STILL_NS

    def endless(self) -> bool:
        """Whether it has used more CPU time than its program says any of its operations could need."""
        return bool(self.busy_ms) and self._used * 1000 // _TICKS >= self.busy_ms

    def _place(self, thread: _Thread) -> str:
        actor = self.slots.actors.get(thread.actor) if thread.actor else None
        return "%d" % actor.pid if actor else "self/task/%d" % thread.tid

    def hung(self) -> dict[str, Any]:
        """Say which operation does not come back, with the kernel stack of its thread."""
        stuck = [t for t in self.threads if t.index < len(t.ops)]
        stuck.sort(key=lambda t: t.index >= 0 and t.ops[t.index][0] in WAITING_OPS)
        if not stuck:
            thread = self.threads[-1]
            return {
                "thread": thread.name,
                "i": -1,
                "op": "close",
                "stack": _stack("self/task/%d" % thread.tid),
            }
        thread = stuck[0]
        op = thread.ops[max(thread.index, 0)][0] if thread.ops else "start"
        return {"thread": thread.name, "i": thread.index, "op": op, "stack": _stack(self._place(thread))}


def _cpu_ticks(place: str) -> int:
    """CPU time a thread or process has used, in clock ticks; 0 where it is gone."""
    try:
        with open("/proc/%s/stat" % place, "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return 0


def _stack(place: str) -> str:
    parts = []
    for name in ("wchan", "syscall", "stack"):
        try:
            with open("/proc/%s/%s" % (place, name), encoding="ascii", errors="replace") as file:
                parts.append("%s: %s" % (name, file.read(8192).strip()))
        except OSError as e:
            parts.append("%s: unreadable (%s)" % (name, os.strerror(e.errno or errno.EIO)))
    return "\n".join(parts)


class Executor:
    """Holds the sessions and runs programs in them, one at a time, in the thread that asks.

    Handing every program to another thread would cost more than most programs do; so it is the other way
    round: whoever watches calls `overdue` from time to time, and takes over when that gives an answer.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Slots] = {}
        self._current: RunningProgram | None = None
        self._polled_ns = _now()
        self._batch: list[dict[str, Any]] | None = None

    def run_many(self, programs: list[Any]) -> dict[str, Any]:
        """Run programs one after the other; {"results": [what `run` gives..]}, which ends with the first
        that hangs."""
        self._batch = results = []
        try:
            for program in programs:
                results.append(self.run(program))
        finally:
            if self._batch is results:  # a batch that hung has lost it to the next one
                self._batch = None
        return {"results": results}

    def run(self, program: Any) -> dict[str, Any]:
        """Run a program; `{"trace": [...], "hung": None}`.  Failure `usage` when it is malformed.

        Raises `Overdue` when `overdue` has answered for it meanwhile: the caller must not answer again.
        """
        threads = _parse(program)
        session = program.get("session")
        if session is None:
            slots = Slots()
        else:
            slots = self.sessions.get(session) or self.sessions.setdefault(session, Slots())
        slots.keep.update(program.get("keep", ()))
        run = RunningProgram(slots, program, threads, session)
        self._current = run
        if run.has_actors:
            self._start_actors(run)
        for thread in threads[1:]:
            threading.Thread(target=run.run_thread, args=(thread,), daemon=True).start()
        run.run_thread(threads[0])
        if run.others_done is not None:
            run.others_done.wait()
        if not run.claim():
            raise Overdue
        self._current = None
        if session is None:
            slots.close_rest(frozenset())
        if run.failure is not None:
            raise run.failure
        return {"trace": run.trace, "hung": None}

    def overdue(self) -> dict[str, Any] | None:
        """Return the answer for a program that hangs, once, after which it is nobody's any more; else
        None."""
        now = _now()
        gap, self._polled_ns = now - self._polled_ns, now
        run = self._current
        if run is None:
            return None
        if gap > _STALL_NS:
            run.excuse(gap)
        if not run.late(now):
            return None
        slow = not run.waits() and not run.endless()
        if slow and not run.late(now - _SLOW_NS):
            return None
        run.stopped = True
        if not run.claim():
            return None
        # The session's slots may hang whoever touches them: forget them.
        if run.session is not None:
            self.sessions.pop(run.session, None)
        run.slots.keep.clear()
        self._current = None
        result = {"trace": list(run.trace), "hung": {**run.hung(), "slow": slow}}
        return result if self._batch is None else {"results": [*self._batch, result]}

    def _start_actors(self, run: RunningProgram) -> None:
        forked = {op[1]["actor"] for t in run.threads for op in t.ops if op[0] == "fork"}
        for thread in run.threads:
            name = thread.actor
            if name is not None and name not in forked and name not in run.slots.actors:
                run.start_actor(name)

    def end_session(self, name: str) -> None:
        """Close every kept slot of session `name`; nothing when there is no such session."""
        slots = self.sessions.pop(name, None)
        if slots is not None:
            slots.close_rest(frozenset())

    def end_all(self) -> None:
        """Close all sessions."""
        for name in list(self.sessions):
            self.end_session(name)


def _parse(program: Any) -> list[_Thread]:
    """Return the threads of a validated program; Failure `usage` names the first thing that is wrong."""
    wrong = check_program(program)
    if wrong is not None:
        raise Failure("usage", wrong)
    return [_Thread(t["name"], t.get("actor"), t["ops"]) for t in program["threads"]]
