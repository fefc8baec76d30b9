# SPDX-License-Identifier: Apache-2.0
"""Runs programs: threads, barriers, actors, and the deadline that turns a silent hang into a report.

The caller's thread only waits.  A program whose operation does not come back (a thread stuck in the kernel) is
abandoned: its threads stop at their next operation, its session is forgotten, and the agent goes on.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import traceback
from queue import Empty, SimpleQueue
from typing import Any, Callable

from . import opspec, ops_dma, ops_io, ops_mem, ops_proc, ops_vfio, walk
from .actor import Actor, ActorGone
from .failure import Failure
from .slots import Context, NoSlot, Slots

__all__ = ["Executor", "perform"]

REGISTRY: dict[str, Callable[[Context, dict[str, Any]], Any]] = {}
for _module in (ops_vfio, ops_dma, ops_io, ops_mem, ops_proc, walk):
    REGISTRY.update(_module.OPS)
if REGISTRY.keys() != opspec.SPECS.keys():
    raise ImportError("operations without specification or function: %s" % sorted(REGISTRY.keys() ^ opspec.SPECS.keys()))

_WAITING_OPS = frozenset(["barrier", "sleep", "wait", "poll"])  # never the cause of a hang
_PARENT_OPS = frozenset(["barrier", "sleep"])  # of an actor's thread: performed here, where the barriers are
_now = time.monotonic_ns


def perform(ctx: Context, op: Any) -> dict[str, Any]:
    """Perform one validated operation; its record without `t` and `i`."""
    name, args = op
    t0 = _now()
    try:
        fields = REGISTRY[name](ctx, args)
    except OSError as e:
        dt = _now() - t0
        return {"op": name, "ret": -1, "errno": e.errno or errno.EIO, "t0": t0, "dt": dt}
    except NoSlot as e:
        return {"op": name, "ret": -1, "errno": 0, "skipped": "no slot %s" % e, "t0": t0, "dt": 0}
    except ActorGone as e:
        return {"op": name, "ret": -1, "errno": 0, "skipped": str(e), "t0": t0, "dt": 0}
    dt = _now() - t0
    record = {"op": name, "ret": 0, "errno": 0, "t0": t0, "dt": dt}
    if fields:
        record.update(fields)
    return record


class _Thread:
    """One thread of a running program."""

    def __init__(self, name: str, actor: str | None, ops: list[Any]) -> None:
        self.name = name
        self.actor = actor
        self.ops = ops
        self.index = -1  # of the operation under way; len(ops) when all are done
        self.tid = 0


class Run:
    """One program under way; shared by its threads."""

    def __init__(self, slots: Slots, program: dict[str, Any], threads: list[_Thread]) -> None:
        self.slots = slots
        self.devices = program.get("devices", {})
        self.threads = threads
        self.deadline_ns = _now() + program.get("deadline_ms", 20000) * 1_000_000
        self.trace: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self.stopped = False
        self.done: SimpleQueue[None] = SimpleQueue()
        self._left = len(threads)
        self._lock = threading.Lock()
        self._actor_event = threading.Condition(self._lock)
        self._barriers: dict[str, threading.Barrier] = {}
        self._start = threading.Barrier(len(threads)) if len(threads) > 1 else None

    def barrier(self, name: str, parties: int) -> threading.Barrier:
        """Return the program's barrier `name`, made by who comes first."""
        with self._lock:
            found = self._barriers.get(name)
            if found is None:
                found = self._barriers[name] = threading.Barrier(max(1, parties))
            return found

    def actor_started(self) -> None:
        """Tell threads that wait for their actor that a fork has been made."""
        with self._lock:
            self._actor_event.notify_all()

    def run_thread(self, thread: _Thread) -> None:
        """The body of one thread of the program; the last one to finish closes the slots."""
        thread.tid = threading.get_native_id()
        try:
            if self._start is not None:
                self._start.wait(max(0.001, (self.deadline_ns - _now()) / 1e9))
            if thread.actor is None:
                self._run_ops(thread)
            else:
                self._run_actor_ops(thread, thread.actor)
        except threading.BrokenBarrierError:
            pass
        except Failure as e:
            self._fail(e)
        except Exception as e:
            # Whatever it is, the agent must answer: this is a bug here, told as such.
            self._fail(Failure("agent", "%s: %s" % (type(e).__name__, e), traceback=traceback.format_exc()))
        thread.index = max(thread.index, 0)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self.slots.close_rest(self.slots.keep)
            self.done.put(None)

    def _fail(self, failure: Failure) -> None:
        self.failure = self.failure or failure
        self.stopped = True

    def _run_ops(self, thread: _Thread) -> None:
        ctx = Context(self.slots, self.devices, self.deadline_ns, self)
        append = self.trace.append
        name = thread.name
        for index, op in enumerate(thread.ops):
            if self.stopped:
                return
            thread.index = index
            record = perform(ctx, op)
            record["t"] = name
            record["i"] = index
            append(record)
        thread.index = len(thread.ops)

    def _run_actor_ops(self, thread: _Thread, actor_name: str) -> None:
        ctx = Context(self.slots, self.devices, self.deadline_ns, self)
        with self._lock:
            while actor_name not in self.slots.actors:
                if self.stopped or not self._actor_event.wait(max(0.0, ctx.remaining_s() - 0.2)):
                    return
            actor: Actor = self.slots.actors[actor_name]
        for index, op in enumerate(thread.ops):
            if self.stopped:
                return
            thread.index = index
            if op[0] in _PARENT_OPS:
                record = perform(ctx, op)
            else:
                t0 = _now()
                try:
                    record = actor.run(op, self.deadline_ns)
                except ActorGone as e:
                    record = {"op": op[0], "ret": -1, "errno": 0, "skipped": str(e), "t0": t0, "dt": 0}
                if "failure" in record:
                    raise Failure("usage", record["failure"])
            record["t"] = thread.name
            record["i"] = index
            self.trace.append(record)
        thread.index = len(thread.ops)

    def hung(self) -> dict[str, Any]:
        """Say which operation does not come back, with the kernel stack of its thread."""
        stuck = [t for t in self.threads if t.index < len(t.ops)]
        stuck.sort(key=lambda t: t.index >= 0 and t.ops[t.index][0] in _WAITING_OPS)
        if not stuck:
            thread = self.threads[-1]
            return {"thread": thread.name, "i": -1, "op": "close", "stack": _stack("self/task/%d" % thread.tid)}
        thread = stuck[0]
        op = thread.ops[max(thread.index, 0)][0] if thread.ops else "start"
        actor = self.slots.actors.get(thread.actor) if thread.actor else None
        place = "%d" % actor.pid if actor else "self/task/%d" % thread.tid
        return {"thread": thread.name, "i": thread.index, "op": op, "stack": _stack(place)}


def _stack(place: str) -> str:
    parts = []
    for name in ("wchan", "syscall", "stack"):
        try:
            with open("/proc/%s/%s" % (place, name), encoding="ascii", errors="replace") as file:
                parts.append("%s: %s" % (name, file.read(8192).strip()))
        except OSError as e:
            parts.append("%s: unreadable (%s)" % (name, os.strerror(e.errno or errno.EIO)))
    return "\n".join(parts)


class _Worker(threading.Thread):
    """A persistent thread: starting one for each program would cost more than most programs do."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.jobs.get()()


class Executor:
    """Holds the sessions and runs programs in them, one at a time."""

    def __init__(self) -> None:
        self.sessions: dict[str, Slots] = {}
        self._worker = _Worker()

    def run(self, program: Any) -> dict[str, Any]:
        """Run a program; `{"trace": [...], "hung": None or {...}}`.  Failure `usage` when it is malformed."""
        threads = _parse(program)
        session = program.get("session")
        slots = self.sessions.setdefault(session, Slots()) if session is not None else Slots()
        slots.keep.update(program.get("keep", []))
        run = Run(slots, program, threads)
        self._start_actors(run)
        for thread in threads[1:]:
            threading.Thread(target=run.run_thread, args=(thread,), daemon=True).start()
        self._worker.jobs.put(lambda: run.run_thread(threads[0]))
        hung = None
        try:
            run.done.get(timeout=max(0.001, (run.deadline_ns - _now()) / 1e9))
        except Empty:
            hung = self._abandon(run, session)
        if session is None and hung is None:
            slots.close_rest(frozenset())
        if run.failure is not None:
            raise run.failure
        return {"trace": list(run.trace), "hung": hung}

    def _start_actors(self, run: Run) -> None:
        forked = {op[1]["actor"] for t in run.threads for op in t.ops if op[0] == "fork"}
        for thread in run.threads:
            name = thread.actor
            if name is not None and name not in forked and name not in run.slots.actors:
                run.slots.actors[name] = Actor.start(name, run.slots, run.devices)

    def _abandon(self, run: Run, session: str | None) -> dict[str, Any] | None:
        run.stopped = True
        try:
            run.done.get(timeout=0.5)  # an operation that waits until the deadline comes back about now
            if all(t.index >= len(t.ops) for t in run.threads):
                return None
        except Empty:
            pass
        hung = run.hung()
        # The session's slots may hang whoever touches them, and the worker may never return: forget both.
        if session is not None:
            self.sessions.pop(session, None)
        run.slots.keep.clear()
        self._worker = _Worker()
        return hung

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
    wrong = opspec.check_program(program)
    if wrong is not None:
        raise Failure("usage", wrong)
    return [_Thread(t["name"], t.get("actor"), t["ops"]) for t in program["threads"]]
