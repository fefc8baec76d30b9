# SPDX-License-Identifier: Apache-2.0
"""Follows one thread of operations through the migration state machine and judges each of them.

The tracker holds the *set* of states the device may be in: one after a GET, several after a SET that failed
on the way.  It holds what it knows of every data fd: which session it belongs to, whether that is over and
by which arc, and what was read.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.oracle.judgement import Judgement
from harness.oracle.migration_rules import (
    RESET_CLAUSE,
    arc_clause,
    end_clause,
    errno_name,
    name_of,
    refusal_clause,
)
from harness.oracle.walk import judge_walk
from harness.spec.arcs import (
    PRE_COPY_STATES,
    SAVING_GROUP,
    Mig,
    State,
    path,
    starts_session,
    states,
)
from harness.uapi import vfio

__all__ = ["Session", "Tracker"]

S = State
_OPT_IN = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
_ANY = frozenset(State)
_DATA_IO = {"read", "read_all", "write", "write_all", "precopy_info", "pread", "pwrite", "lseek", "poll"}


@dataclass
class Session:
    """One data transfer session; every fd of it shares this object."""

    saving: bool
    end_clause: str = ""
    """The clause by which it ended; '' while it lives."""
    written: int = 0
    refused_write: bool = False
    eof: bool = False
    initial: int | None = None
    """Last initial_bytes seen, and whether anything was read since."""
    read_since: int = 0
    last_info: tuple[int, int] | None = None
    reads: int = 0


class Tracker:
    """Judges the operations of one thread, in order, into `out`."""

    def __init__(
        self, flags: Mig, capabilities: Mapping[str, Any], out: Judgement, program: Mapping[str, Any]
    ) -> None:
        self.flags = flags
        self.capabilities = capabilities
        self.out = out
        self.faults = bool(program.get("faults"))
        self.possible: frozenset[State] = _ANY
        self.why: tuple[str, str] | None = None  # clause and expectation for the next GET
        self.device_slots: set[str] = set(program.get("keep", ())) | {"d"}
        self.fds: dict[str, Session] = {}
        self.live: Session | None = None
        self.v2 = False
        self.left: State | None = None
        """State in which the device was closed."""

    # -- helpers
    @property
    def state(self) -> State | None:
        """The state, where only one is possible."""
        return next(iter(self.possible)) if len(self.possible) == 1 else None

    def _end(self, clause: str) -> None:
        if self.live is not None:
            self.live.end_clause = clause
            self.live = None

    def _name(self) -> str:
        return (
            self.state.name
            if self.state is not None
            else "one of " + "/".join(sorted(s.name for s in self.possible))
        )

    def step(self, index: int, name: str, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        """Judge one operation by its trace record."""
        if rec.get("skipped"):
            return
        handler = getattr(self, f"_op_{name}", None)
        if handler is not None:
            handler(index, args, rec)

    # -- the state machine
    def _op_set_state(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        new, error = int(args["state"]), int(rec["errno"])
        cur = self.state
        if args.get("argsz") is not None and int(args["argsz"]) < 16:
            self.out.check(
                "MIG-009", error != 0, i, "refused: argsz does not hold the data", errno_name(error)
            )
            if error:
                self.why = ("MIG-010", "the refused request changes nothing")
            return
        if cur is None:
            self._unknown_set(new, error, rec, args)
            return
        way = path(cur, new, self.flags)
        if error:
            self._set_failed(i, cur, new, error, way, rec)
        elif way is None:
            clause = refusal_clause(cur, new, self.flags)
            self.out.check(clause, False, i, f"SET({name_of(new)}) in {cur.name} is refused", "it succeeded")
            self.out.cell(cur, new, "failed")
            self.possible = _ANY
        else:
            self._set_done(i, cur, way, rec, args)

    def _unknown_set(self, new: int, error: int, rec: Mapping[str, Any], args: Mapping[str, Any]) -> None:
        """A SET in a state nobody knows: follow it, judge nothing."""
        self.why = None
        if error == 0 and new in State._value2member_map_:
            self.possible = frozenset({State(new)})
            self.live = None
            if rec.get("data_fd", -1) != -1 and args.get("out"):
                self.live = self.fds[args["out"]] = Session(saving=new != S.RESUMING)
        else:
            self.possible = _ANY

    def _set_failed(
        self, i: int, cur: State, new: int, error: int, way: tuple[State, ...] | None, rec: Mapping[str, Any]
    ) -> None:
        out = self.out
        out.check(
            "MIG-059", rec.get("data_fd", -1) == -1, i, "a failed SET returns no data fd", "it returned one"
        )
        if way is None:
            out.check(refusal_clause(cur, new, self.flags), True, i, "refused", errno_name(error))
            out.cell(cur, new, "refused")
            clause = "MIG-131" if cur == S.ERROR else "MIG-050"
            self.why = (clause, f"still {cur.name} after the refused SET({name_of(new)})")
            return
        session = self.live
        if self.faults or (cur == S.RESUMING and len(way) > 1):
            # What the stream was worth is for claims to say; no stream at all is plain.
            if session is not None and not session.saving and not session.written:
                clause = "MIG-107" if session.refused_write else "MIG-106"
                out.check(
                    clause, True, i, "a stream of which nothing was taken is refused", errno_name(error)
                )
                out.cell(cur, new, "refused")
        else:
            expected = f"SET({name_of(new)}) in {cur.name} succeeds"
            out.check(arc_clause(way), False, i, expected, errno_name(error))
            out.cell(cur, new, "failed")
        self.possible = frozenset(way) | {S.ERROR}
        what = " or ".join(s.name for s in (*way, S.ERROR))
        self.why = (
            "MIG-111" if cur == S.RESUMING else "MIG-051",
            f"{what} after the failed SET({name_of(new)})",
        )
        if cur != S.RESUMING and session is not None and len(way) > 1 and not self.faults:
            self.live = None  # nobody knows how far it went: its fds are not judged any further

    def _set_done(
        self, i: int, cur: State, way: tuple[State, ...], rec: Mapping[str, Any], args: Mapping[str, Any]
    ) -> None:
        out, new = self.out, way[-1]
        out.check(arc_clause(way), True, i, "", "")
        out.cell(cur, new, "reached")
        out.check(
            "MIG-023",
            int(rec.get("state", new)) == new,
            i,
            f"device_state {new.name} written back",
            name_of(int(rec.get("state", new))),
        )
        if cur == S.RESUMING and new != cur and self.live is not None and not self.live.written:
            if self.live.refused_write:
                out.check(
                    "MIG-107", False, i, "SET is refused: every write() of the stream failed", "it succeeded"
                )
            else:
                out.check("MIG-106", False, i, "RESUMING without any data is not left by SET", "it succeeded")
        leaves_saving = cur in SAVING_GROUP and new not in SAVING_GROUP
        if leaves_saving or (cur == S.RESUMING and new != S.RESUMING):
            self._end(end_clause(cur))
        got_fd = int(rec.get("data_fd", -1)) != -1
        if starts_session(cur, new):
            out.check(
                "MIG-055", got_fd, i, f"SET({new.name}) in {cur.name} returns a data fd", "none returned"
            )
            if got_fd:
                self.live = Session(saving=new != S.RESUMING)
                if args.get("out"):
                    self.fds[args["out"]] = self.live
                out.check("MIG-058", bool(rec.get("cloexec")), i, "FD_CLOEXEC is set", "it is not set")
        else:
            within = cur != new and cur in SAVING_GROUP and new in SAVING_GROUP
            clause = "MIG-057" if within else "MIG-024" if cur == new else "MIG-056"
            out.check(
                clause, not got_fd, i, f"SET({new.name}) in {cur.name} returns no data fd", "an fd came back"
            )
        if cur != new:
            for session in self.fds.values():
                session.last_info = None
        self.possible = frozenset({new})
        self.why = ("MIG-024" if cur == new else "MIG-022", f"{new.name} after SET({new.name}) succeeded")

    def _op_get_state(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if not self.out.check(
            "MIG-052", rec["errno"] == 0, i, "GET of the state succeeds", errno_name(rec["errno"])
        ):
            return
        seen = int(rec["state"])
        self.out.check(
            "MIG-021", int(rec.get("data_fd", -1)) == -1, i, "data_fd is -1", str(rec.get("data_fd"))
        )
        known = self.possible != _ANY
        clause, expected = self.why or ("MIG-053", f"still {self._name()}: nobody asked for a change")
        legal = seen in State._value2member_map_ and State(seen) in states(self.flags)
        if known or not legal or clause == "MIG-020":
            ok = legal and State(seen) in self.possible
            stale = clause == "MIG-020" and seen == self.left
            observed = "the state in which it was closed" if stale else name_of(seen)
            self.out.check(clause, ok, i, expected, observed)
        self.possible = frozenset({State(seen)}) if legal else _ANY
        if self.state not in SAVING_GROUP and self.live is not None and self.live.saving:
            self.live = None
        self.why = None
        if seen == S.ERROR and self.live is not None:
            self._end("MIG-132")
        elif self.live is not None and not self.live.saving and self.state != S.RESUMING:
            self._end("MIG-063")

    def _op_reset(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"]:
            if self.capabilities.get("reset_flag"):
                self.out.check("MIG-143", False, i, "VFIO_DEVICE_RESET succeeds", errno_name(rec["errno"]))
            return
        if self.capabilities.get("reset_flag"):
            self.out.check("MIG-143", True, i, "", "")
        cur = self.state
        clause = RESET_CLAUSE.get(cur, "MIG-142") if cur is not None else "MIG-142"
        if self.live is not None:
            self._end("MIG-064" if self.live.saving else "MIG-065")
        self.possible = frozenset({S.RUNNING})
        self.why = (clause, f"RUNNING after a reset in {cur.name if cur is not None else 'some state'}")

    def _op_debugfs_state(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"] == 0 and self.state is not None and self.why is None:
            text = str(rec.get("text", "")).strip()
            self.out.check("MIG-016", text == self.state.name, i, self.state.name, text)

    def _op_walk(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"] == 0:
            self.possible = frozenset({S.RUNNING})
            end = judge_walk(i, args, rec, self.flags, self.capabilities, self.out)
            self.possible = frozenset({end}) if end is not None else _ANY
            self.live, self.why = None, None

    def _op_feature(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"] == 0 and int(args["flags"]) == _OPT_IN:
            self.v2 = True

    # -- life of fds
    def _op_dup(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"] == 0 and args.get("fd") in self.fds and args.get("out"):
            self.fds[args["out"]] = self.fds[args["fd"]]

    def _op_close(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        slot = args.get("fd")
        if slot in self.fds:
            del self.fds[slot]
            if self.state is not None and self.why is None:
                self.why = ("MIG-069", f"still {self.state.name} after close of the data fd")
        elif slot in self.device_slots:
            self._end("MIG-071")
            self.left, self.v2 = self.state, False
            self.possible = _ANY
            self.why = None

    def _op_bind(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if rec["errno"] == 0:
            self.device_slots.add(args["fd"])
            self.possible = frozenset({S.RUNNING})
            self.why = ("MIG-020", "RUNNING after open and bind")

    # -- data
    def _op_read(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is None:
            return
        asked, got, error = int(args["n"]), int(rec["ret"]), int(rec["errno"])
        self._judge_read(i, session, asked, got, error)

    def _op_read_all(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is None:
            return
        got = int(rec.get("n", 0))
        if got:
            self._judge_read(i, session, got, got, 0)
        if rec.get("end") == "eof":
            self._judge_read(i, session, 1, 0, 0)
        elif rec.get("end") == "errno":
            self._judge_read(i, session, 1, -1, int(rec["errno"]))
        elif (
            rec.get("end") == "max"
            and session.saving
            and not session.end_clause
            and self.state == S.STOP_COPY
        ):
            self.out.check(
                "MIG-075", False, i, f"an end of stream within {args.get('max_bytes')} bytes", "none"
            )

    def _judge_read(self, i: int, session: Session, asked: int, got: int, error: int) -> None:
        out = self.out
        if not session.saving:
            if not session.end_clause:
                out.check("MIG-073", error != 0, i, "read of a resuming fd is refused", f"returned {got}")
            return
        if session.end_clause:
            out.check(session.end_clause, got <= 0, i, "no data from an ended session", f"{got} bytes")
            if self.live is not None:
                out.check("MIG-066", got <= 0, i, "no data from an ended session", f"{got} bytes")
            if got <= 0:
                out.check("MIG-067", error != 0, i, "an error from an ended session", "0, an end of stream")
            return
        if session is not self.live or asked == 0:
            return
        out.check("MIG-079", got <= asked, i, f"at most {asked} bytes", f"{got} bytes")
        if self.state == S.STOP_COPY:
            out.check("MIG-076", error != errnos.ENOMSG, i, "no ENOMSG in STOP_COPY", errno_name(error))
            if session.eof:
                out.check(
                    "MIG-075",
                    got == 0 and not error,
                    i,
                    "0 for ever after the end of stream",
                    errno_name(error) if error else f"{got} bytes",
                )
        elif self.state in PRE_COPY_STATES:
            if got == 0:
                out.check("MIG-078", False, i, "ENOMSG at the temporary end of stream", "0, an end of stream")
            elif error == errnos.ENOMSG:
                out.check("MIG-078", True, i, "", "")
            if session.last_info is not None and sum(session.last_info) > 0:
                out.check(
                    "MIG-089",
                    got > 0,
                    i,
                    f"data: initial_bytes and dirty_bytes were {session.last_info}",
                    errno_name(error) if error else f"{got} bytes",
                )
        else:
            return
        if error not in (0, errnos.ENOMSG):
            out.check("MIG-054", False, i, "read of a live saving session succeeds", errno_name(error))
        else:
            out.check("MIG-054", True, i, "", "")
        if got > 0:
            session.reads += 1
            session.read_since += got
        session.eof = session.eof or (got == 0 and self.state == S.STOP_COPY)
        session.last_info = None

    def _op_write(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is None:
            return
        got, asked = int(rec["ret"]), rec.get("asked", args.get("n"))
        if session.saving:
            if not session.end_clause:
                self.out.check(
                    "MIG-072", rec["errno"] != 0, i, "write to a saving fd is refused", f"took {got}"
                )
            return
        if session.end_clause:
            self.out.check(
                session.end_clause, got <= 0, i, "no data taken by an ended session", f"{got} bytes"
            )
            return
        if args.get("hex") is not None:
            asked = len(args["hex"]) // 2
        if asked is not None:
            self.out.check("MIG-121", got <= int(asked), i, f"at most {asked} bytes", f"{got} bytes")
        session.written += max(got, 0)
        session.refused_write = session.refused_write or rec["errno"] != 0

    def _op_write_all(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is not None and not session.saving and not session.end_clause:
            session.written += int(rec.get("n", 0))
            session.refused_write = session.refused_write or rec["errno"] != 0

    def _op_precopy_info(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session, error, out = self.fds.get(args["fd"]), int(rec["errno"]), self.out
        if session is None or not self.flags & Mig.PRE_COPY:
            return  # the ioctl is one of devices with PRE_COPY; which error others give is not said
        if not session.saving:
            out.check("MIG-092", error != 0, i, "refused on a resuming fd", errno_name(error))
        elif args.get("argsz") is not None and int(args["argsz"]) < 24:
            out.check("MIG-088", error != 0, i, "refused: argsz too small", errno_name(error))
        elif session is self.live and self.state in PRE_COPY_STATES:
            clause = "MIG-080" if self.state == S.PRE_COPY else "MIG-081"
            if out.check(clause, error == 0, i, f"succeeds in {self._name()}", errno_name(error)):
                self._judge_info(i, session, rec)
        elif self.state is not None and (session is self.live or session.end_clause):
            in_pre_copy = self.state in PRE_COPY_STATES  # another session's: only "refused" is sure
            out.check(
                "MIG-066" if in_pre_copy else "MIG-082",
                error != 0,
                i,
                f"refused in {self._name()}",
                errno_name(error),
            )
            if error and session is self.live:
                out.check("MIG-083", error == errnos.EINVAL, i, "EINVAL", errno_name(error))

    def _judge_info(self, i: int, session: Session, rec: Mapping[str, Any]) -> None:
        out, initial, dirty = self.out, int(rec["initial_bytes"]), int(rec["dirty_bytes"])
        reinit = self.v2 and bool(int(rec.get("flags", 0)) & 1)
        if self.v2:
            out.check(
                "MIG-090", int(rec.get("flags", 0)) & ~1 == 0, i, "no flag but REINIT", hex(rec["flags"])
            )
        if session.initial is None:
            if not session.reads:
                out.check("MIG-084", initial > 0, i, "initial_bytes is not zero at first", "0")
                out.check("MIG-087", dirty == 0, i, "dirty_bytes starts at zero", str(dirty))
        elif not reinit:
            out.check(
                "MIG-086",
                initial <= session.initial,
                i,
                f"initial_bytes at most {session.initial}",
                str(initial),
            )
            if session.read_since and session.initial:
                out.check(
                    "MIG-085",
                    initial < session.initial,
                    i,
                    f"initial_bytes below {session.initial} after {session.read_since} bytes read",
                    str(initial),
                )
        session.initial, session.read_since, session.last_info = initial, 0, (initial, dirty)

    def _op_data_size(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        if self.capabilities.get("data_size") and self.state is not None:
            self.out.check(
                "MIG-093",
                rec["errno"] == 0,
                i,
                f"GET of MIG_DATA_SIZE succeeds in {self._name()}",
                errno_name(rec["errno"]),
            )

    def _op_seek(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is not None:
            self.out.check(
                "MIG-074", rec["errno"] != 0, i, "refused: the data fd is a stream", "it succeeded"
            )

    _op_lseek = _op_pread = _op_pwrite = _op_seek

    def _op_poll(self, i: int, args: Mapping[str, Any], rec: Mapping[str, Any]) -> None:
        session = self.fds.get(args["fd"])
        if session is not None and session is self.live and session.eof and self.state == S.STOP_COPY:
            self.out.check("MIG-077", "IN" in rec.get("revents", ()), i, "readable", str(rec.get("revents")))
