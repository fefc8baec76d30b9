# SPDX-License-Identifier: Apache-2.0
"""A device in memory that keeps every rule, and breaks the ones it is told to: the suite's own subject.

`ModelAgent.run(program)` answers as the agent does.  The self-test runs the whole chapter against it, whole
and with single rules broken (`DEFECTS`); it is a mock of a device, never of a verdict.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import struct
from collections.abc import Mapping
from typing import Any

from harness.script import FEATURE_SET
from harness.spec.fsm import PRE_COPY_STATES, SAVING_GROUP, Mig, S, State, path, starts_session

__all__ = ["CAPABILITIES", "DEFECTS", "FAIL", "ModelAgent"]

CAPABILITIES: dict[str, Any] = {
    "migration": ["STOP_COPY", "P2P", "PRE_COPY"],
    "migration_probed": True,
    "reset": True,
    "reset_flag": True,
    "data_size": True,
    "precopy_info_v2": True,
    "debugfs_state": True,
    "regions": [{"index": 0, "size": 16}],
    "state_regions": True,
    "num_regions": 1,
    "stream_bytes": 40,
}

# name -> the clause it breaks
DEFECTS: dict[str, str] = {
    "flags-without-stop-copy": "MIG-002",
    "flags-undefined": "MIG-003",
    "probe-get-refused": "MIG-004",
    "probe-set-migration": "MIG-005",
    "probe-set-state-refused": "MIG-006",
    "get-and-set": "MIG-007",
    "neither": "MIG-008",
    "short-argsz": "MIG-009",
    "unknown-feature": "MIG-011",
    "reserved-flags": "MIG-012",
    "probe-sets": "MIG-014",
    "flags-change": "MIG-015",
    "debugfs-stale": "MIG-016",
    "long-argsz-refused": "MIG-017",
    "open-keeps-state": "MIG-020",
    "get-data-fd": "MIG-021",
    "get-stale": "MIG-022",
    "same-state-refused": "MIG-024",
    "arc-running-p2p-stop-refused": "MIG-030",
    "arc-precopy-refused": "MIG-038",
    "combination-refused": "MIG-045",
    "stop-copy-to-pre-copy": "MIG-046",
    "error-as-target": "MIG-047",
    "out-of-range": "MIG-048",
    "refused-moves": "MIG-050",
    "async-stop": "MIG-053",
    "read-eio": "MIG-054",
    "no-fd": "MIG-055",
    "extra-fd": "MIG-056",
    "fd-within-group": "MIG-057",
    "no-cloexec": "MIG-058",
    "fd-with-error": "MIG-059",
    "stop-copy-fd-lives": "MIG-060",
    "pre-copy-fd-lives": "MIG-061",
    "p2p-fd-lives": "MIG-062",
    "resuming-fd-lives": "MIG-063",
    "reset-keeps-saving": "MIG-064",
    "reset-keeps-resuming": "MIG-065",
    "old-fd-serves-new": "MIG-066",
    "dead-fd-eof": "MIG-067",
    "close-fd-stops": "MIG-069",
    "saving-fd-writable": "MIG-072",
    "resuming-fd-readable": "MIG-073",
    "seekable": "MIG-074",
    "eof-not-permanent": "MIG-075",
    "enomsg-in-stop-copy": "MIG-076",
    "poll-silent": "MIG-077",
    "eof-in-pre-copy": "MIG-078",
    "read-too-much": "MIG-079",
    "no-info": "MIG-080",
    "no-info-p2p": "MIG-081",
    "info-everywhere": "MIG-082",
    "info-wrong-errno": "MIG-083",
    "initial-zero": "MIG-084",
    "initial-never-falls": "MIG-085",
    "initial-grows": "MIG-086",
    "dirty-not-zero": "MIG-087",
    "info-short-argsz": "MIG-088",
    "info-lies": "MIG-089",
    "info-v2-flags": "MIG-090",
    "info-v2-refused": "MIG-091",
    "info-on-resuming": "MIG-092",
    "size-only-running": "MIG-093",
    "size-settable": "MIG-094",
    "pre-copy-unread-lost": "MIG-095",
    "own-stream-refused": "MIG-100",
    "restore-forgets": "MIG-101",
    "save-differs": "MIG-102",
    "segments-matter": "MIG-103",
    "truncated-accepted": "MIG-105",
    "empty-accepted": "MIG-106",
    "refused-write-accepted": "MIG-107",
    "excess-corrupts": "MIG-108",
    "random-accepted": "MIG-109",
    "refused-stream-runs": "MIG-111",
    "refused-stream-breaks": "MIG-112",
    "reset-keeps-resuming-state": "MIG-113",
    "damaged-breaks": "MIG-114",
    "save-changes-state": "MIG-115",
    "cancel-changes-state": "MIG-116",
    "p2p-changes-state": "MIG-117",
    "pre-copy-misses-change": "MIG-118",
    "second-session-short": "MIG-120",
    "write-counts-too-much": "MIG-121",
    "stop-keeps-counting": "MIG-125",
    "stop-regions-fail": "MIG-126",
    "error-left-by-set": "MIG-130",
    "error-forgotten": "MIG-131",
    "error-fd-lives": "MIG-132",
    "reset-keeps-error": "MIG-133",
    "exchanged-accepted": "MIG-110",
    "undeclared-reached": "MIG-049",
    "failed-set-strays": "MIG-051",
    "stop-copy-access-stops": "MIG-127",
    "late-fd-breaks": "MIG-151",
    "reset-stop-keeps": "MIG-140",
    "reset-running-stops": "MIG-141",
    "reset-group-keeps": "MIG-142",
    "reset-refused": "MIG-143",
    "reset-forgets-saving": "MIG-144",
    "reopen-stuck": "MIG-150",
    "dup-own-position": "MIG-068",
    "passed-fd-empty": "MIG-070",
    "close-keeps-session": "MIG-071",
    "efault-ignored": "MIG-168",
    "answer-lost": "MIG-168",
    "v1-region": "MIG-013",
    "state-not-executed": "MIG-023",
    "refused-feature-moves": "MIG-010",
    "get-fails-in-stop": "MIG-052",
    "get-migration-fails": "MIG-001",
    "segments-of-reads-matter": "MIG-104",
    "mixed-stream-refused": "MIG-119",
    "saving-fd-lives-in-error": "MIG-132",
    "failed-arc-jumps": "MIG-051",
    "failed-arc-loses-state": "MIG-115",
    "error-breaks": "MIG-144",
}
for _n, _arc in enumerate(
    (
        "stop-copy-stop",
        "resuming-stop",
        "pre-copy-running",
        "running-p2p-running",
        "pre-copy-p2p-running-p2p",
        "running-running-p2p",
        "stop-running-p2p",
    )
):
    DEFECTS.setdefault(f"arc-{_arc}-refused", f"MIG-{31 + _n:03d}")
for _n, _arc in enumerate(
    (
        "running-p2p-pre-copy-p2p",
        "stop-stop-copy",
        "pre-copy-pre-copy-p2p",
        "pre-copy-p2p-pre-copy",
        "pre-copy-p2p-stop-copy",
        "stop-resuming",
    )
):
    DEFECTS.setdefault(f"arc-{_arc}-refused", f"MIG-{39 + _n:03d}")
_REFUSED = {
    "arc-running-p2p-stop-refused": (S.RUNNING_P2P, S.STOP),
    "arc-precopy-refused": (S.RUNNING, S.PRE_COPY),
    **{f"arc-{a.name}-{b.name}-refused".lower().replace("_", "-"): (a, b) for a in State for b in State},
}
_MAGIC = b"MODELDEV"
FAIL = 32
"""Offset at which a test tells the model to fail an arc."""


class _Session:
    def __init__(self, saving: bool, header: bytes) -> None:
        self.saving, self.data, self.pos, self.alive = saving, header, 0, True
        self.eof, self.refused, self.segments = 0, False, 0
        self.end = ""


class Fail(Exception):
    """An errno on its way out of an operation."""


class ModelAgent:
    """Runs programs on the model; `defects` are names of `DEFECTS`, `flags` the declared features.

    With `error` a stream that is found damaged leads to ERROR, else to RESUMING.  A write of three bytes at
    offset `FAIL` tells it to fail an arc, once: current state, new state, and whether into ERROR.
    """

    def __init__(self, *defects: str, flags: Mig = Mig(7), error: bool = False) -> None:
        self.defects, self.flags, self.error = set(defects), flags, error
        self.state: State = S.RUNNING
        self.memory = bytearray(16)
        self.session: _Session | None = None
        self.slots: dict[str, Any] = {}
        self.v2 = self.saves = 0
        self.gets = 0
        self.broken = False
        self.opened = True
        self.passed: _Session | None = None
        self.refusals = 0
        self.fail: tuple[int, ...] = ()

    def bad(self, name: str) -> bool:
        """Whether this rule is broken."""
        return name in self.defects

    def run(self, program: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The trace of a single-threaded program."""
        trace = []
        for i, (name, args) in enumerate(program["threads"][0]["ops"]):
            rec: dict[str, Any] = {"t": "main", "i": i, "op": name, "ret": 0, "errno": 0, "t0": i, "dt": 0}
            slot = args.get("fd")
            if slot is not None and slot != "d" and slot not in self.slots:
                rec.update(ret=-1, skipped=f"no slot {slot}")
            else:
                try:
                    rec.update(
                        getattr(self, f"op_{name}")(
                            **{k.rstrip("_"): v for k, v in args.items()}
                            if "from" not in args
                            else {"from_" if k == "from" else k: v for k, v in args.items()}
                        )
                        or {}
                    )
                except KeyError as e:
                    rec.update(ret=-1, skipped=f"no slot {e}")
                except OSError as e:
                    rec.update(ret=-1, errno=e.errno)
                    if isinstance(e, _PartialError):
                        rec.update(e.fields)
            trace.append(rec)
        self.slots = {}
        return trace

    # -- state
    def _stream(self) -> bytes:
        if self.broken:
            raise OSError(errno.EIO, "")
        self.saves += 1
        memory = bytes(self.memory)
        if self.bad("save-differs"):
            memory = memory[:-1] + bytes([self.saves & 0xFF])
        tail = hashlib.md5(memory).digest()
        return memory + tail

    def op_set_state(self, fd: str, state: int, out: str = "", argsz: int = 16) -> dict[str, Any]:
        if self.state == S.ERROR:
            self.refusals += 1
            if self.bad("error-forgotten") and self.refusals % 3 == 0:
                self.state = S.STOP
            if self.bad("error-left-by-set") and state == S.RUNNING:
                self.state = S.RUNNING
                return {"state": state, "data_fd": -1}
            raise OSError(errno.EINVAL, "")
        cur, way = self.state, path(self.state, state, self.flags)
        if self.bad("stop-copy-to-pre-copy") and cur == S.STOP_COPY and state == S.PRE_COPY:
            way = (cur, S.PRE_COPY)
        if self.bad("error-as-target") and state == S.ERROR:
            way = (cur, S.ERROR)
        if self.bad("out-of-range") and state > 7:
            way = (cur,)
        if self.bad("undeclared-reached") and state in (5, 6, 7) and way is None and cur == S.RUNNING:
            way = (cur, State(state))
        if self.bad("failed-set-strays") and cur == S.STOP and state == S.RESUMING:
            self.state = S.STOP_COPY
            raise OSError(errno.EBUSY, "")
        if way is None:
            if self.bad("refused-moves") and cur == S.STOP:
                self.state = S.RUNNING
            if self.bad("fd-with-error"):
                raise _PartialError(errno.EINVAL, {"data_fd": 1})
            raise OSError(errno.EINVAL, "")
        if len(way) == 1 and self.bad("same-state-refused"):
            raise OSError(errno.EINVAL, "")
        refused = next((_REFUSED[d] for d in self.defects if d in _REFUSED), None)
        if refused == way or (self.bad("combination-refused") and len(way) > 3):
            raise OSError(errno.EBUSY, "")
        result: dict[str, Any] = {"state": state, "data_fd": -1, "cloexec": not self.bad("no-cloexec")}
        for a, b in itertools.pairwise(way):
            self._arc(a, b)
            self.state = b
        if self.bad("state-not-executed") and state == S.STOP:
            result["state"] = S.RUNNING_P2P
        fresh = starts_session(cur, State(state)) if state < 8 else False
        if fresh and self.session is not None:
            result["data_fd"] = 1
        if fresh and self.bad("no-fd"):
            result["data_fd"] = -1
        if self.bad("extra-fd") and state == S.STOP and cur != S.STOP:
            result["data_fd"] = 1
        if self.bad("fd-within-group") and cur == S.PRE_COPY and state == S.STOP_COPY:
            result["data_fd"] = 1
        if result["data_fd"] == 1 and out:
            self.slots[out] = self.session or _Session(True, b"")
        return result

    def _fail_arc(self, a: State, b: State) -> None:
        if self.fail[:2] != (a, b):
            return
        into_error, self.fail = self.fail[2], ()
        if into_error:
            self.state, self.broken = S.ERROR, self.bad("error-breaks")
            self._end(not self.bad("saving-fd-lives-in-error"))
        if self.bad("failed-arc-jumps"):
            self.state = S.RUNNING if a == S.STOP else S.STOP
        if self.bad("failed-arc-loses-state"):
            self.memory = bytearray(16)
        raise OSError(errno.ENOSPC, "")

    def _arc(self, a: State, b: State) -> None:
        self._fail_arc(a, b)
        if starts_session(a, b):
            if b == S.STOP_COPY:
                data = _MAGIC + self._stream()
                if self.bad("second-session-short") and self.saves % 2 == 0:
                    data = data[:-1]
            else:
                data = b"" if b == S.RESUMING or self.bad("initial-zero") else _MAGIC
            self.session = _Session(b != S.RESUMING, data)
            if self.bad("old-fd-serves-new"):
                for old in self.slots.values():
                    if isinstance(old, _Session) and old is not self.session:
                        old.end = "serves"
            self.pre_memory = bytes(self.memory)
            if self.bad("cancel-changes-state") and b in PRE_COPY_STATES:
                self.memory[3] ^= 1
        elif b == S.STOP_COPY and self.session is not None:
            body = self._stream()
            if self.bad("pre-copy-misses-change"):
                body = self.pre_memory + hashlib.md5(self.pre_memory).digest()
            if self.bad("pre-copy-unread-lost") and self.session.pos == 0:
                self.session.data = b""
            if self.bad("mixed-stream-refused") and self.session.pos:
                body = body[:-1]
            self.session.data += body
        if a == S.RESUMING:
            self._load()
        if (a in SAVING_GROUP and b not in SAVING_GROUP) or a == S.RESUMING:
            lives = {
                S.STOP_COPY: "stop-copy-fd-lives",
                S.PRE_COPY: "pre-copy-fd-lives",
                S.PRE_COPY_P2P: "p2p-fd-lives",
                S.RESUMING: "resuming-fd-lives",
            }[a]
            self._end(not self.bad(lives))
            if self.bad("save-changes-state") and a == S.STOP_COPY:
                self.memory[2] ^= 1
        if self.bad("p2p-changes-state") and b == S.RUNNING_P2P and a == S.RUNNING:
            self.memory[1] ^= 1

    def _end(self, dies: bool = True) -> None:
        if self.session is not None and dies:
            self.session.alive = False
        self.session = None

    def _load(self) -> None:
        session = self.session
        assert session is not None
        data = session.data
        body, tail = data[8:24], data[24:40]
        ok = data[:8] == _MAGIC and len(data) == 40 and tail == hashlib.md5(body).digest()
        if self.bad("own-stream-refused"):
            ok = False
        if self.bad("segments-matter") and session.segments > 1:
            ok = ok and session.segments % 2 == 1
            body = body[::-1]
        if self.bad("truncated-accepted") and 0 < len(data) < 40:
            ok = True
        if self.bad("empty-accepted") and not data:
            ok = True
        if self.bad("refused-write-accepted") and session.refused:
            ok = True
        if self.bad("exchanged-accepted") and data[20:28] == _MAGIC:
            ok = True
        if (self.bad("random-accepted") or self.bad("damaged-breaks")) and len(data) == 40 and not ok:
            ok = True
            self.broken = self.bad("damaged-breaks")
        if session.refused and not (self.bad("refused-write-accepted") or self.bad("damaged-breaks")):
            ok = False
        if not ok:
            if self.error:
                self.state = S.ERROR
                self._end(not self.bad("error-fd-lives"))
            if self.bad("refused-stream-runs"):
                self.state = S.RUNNING
            if self.bad("refused-stream-breaks"):
                self.broken = True
            raise OSError(errno.EINVAL, "")
        if self.bad("restore-forgets"):
            body = bytes(16)
        if self.bad("excess-corrupts") and session.segments == -1:
            body = bytes(16)
        self.memory[: len(body)] = body

    def op_get_state(self, fd: str) -> dict[str, Any]:
        if self.bad("get-fails-in-stop") and self.state == S.STOP:
            raise OSError(errno.EIO, "")
        self.gets += 1
        if self.bad("async-stop") and self.gets % 5 == 0 and self.state == S.RUNNING:
            self.state = S.STOP
        shown = S.RUNNING if self.bad("get-stale") and self.state == S.RUNNING_P2P else self.state
        return {"state": int(shown), "data_fd": 3 if self.bad("get-data-fd") else -1}

    def op_ioctl(self, fd: str, nr: int, arg: int) -> None:
        if not self.bad("efault-ignored"):
            raise OSError(errno.EFAULT, "")

    def op_ioctl_readonly(self, fd: str, nr: int, buf: str) -> None:
        _, flags, state, _ = struct.unpack("=IIIi", bytes.fromhex(buf))
        if flags == FEATURE_SET | 2:
            self.op_set_state(fd, state)
        if not self.bad("answer-lost"):
            raise OSError(errno.EFAULT, "")

    def op_reset(self, fd: str) -> None:
        if self.bad("reset-refused"):
            raise OSError(errno.EIO, "")
        cur = self.state
        if self.bad("reset-keeps-error") and cur == S.ERROR:
            return
        stays = {
            "reset-keeps-resuming-state": {S.RESUMING},
            "reset-stop-keeps": {S.STOP},
            "reset-group-keeps": SAVING_GROUP,
        }
        if any(self.bad(d) and cur in where for d, where in stays.items()):
            return
        saving = self.session is not None and self.session.saving
        self._end(not self.bad("reset-keeps-saving" if saving else "reset-keeps-resuming"))
        self.state = S.STOP if self.bad("reset-running-stops") and cur == S.RUNNING else S.RUNNING
        if self.bad("reset-forgets-saving") and cur == S.RUNNING_P2P:
            self.broken = True

    def op_debugfs_state(self, dev: str) -> dict[str, Any]:
        return {"text": "RUNNING" if self.bad("debugfs-stale") else self.state.name}

    def op_data_size(self, fd: str) -> dict[str, Any]:
        if self.bad("size-only-running") and self.state != S.RUNNING:
            raise OSError(errno.EINVAL, "")
        return {"size": 40}

    def op_feature(self, fd: str, flags: int, payload: str = "", argsz: int | None = None) -> dict[str, Any]:
        get, put, probe, index = flags & 1 << 16, flags & 1 << 17, flags & 1 << 18, flags & 0xFFFF
        size = (argsz if argsz is not None else 8 + len(payload) // 2) - 8
        if flags >> 19 and not self.bad("reserved-flags"):
            raise OSError(errno.EINVAL, "")
        methods = {1: (1, 0), 2: (1, 1), 9: (1, 0), 12: (0, 1)}.get(index)
        if index == 12 and self.bad("info-v2-refused"):
            methods = None
        if methods is None:
            if self.bad("unknown-feature"):
                return {"payload": payload}
            raise OSError(errno.ENOTTY, "")
        if get and put and not probe and not self.bad("get-and-set"):
            raise OSError(errno.EINVAL, "")
        if not (get or put or probe) and not self.bad("neither"):
            raise OSError(errno.EINVAL, "")
        lacks = (get and not methods[0]) or (put and not methods[1])
        if (
            lacks
            and not (probe and index == 1 and self.bad("probe-set-migration"))
            and not (index == 9 and self.bad("size-settable"))
        ):
            raise OSError(errno.ENOTTY, "")
        if probe:
            if self.bad("probe-get-refused") and index == 1:
                raise OSError(errno.ENOTTY, "")
            if self.bad("probe-set-state-refused") and index == 2 and put:
                raise OSError(errno.ENOTTY, "")
            if self.bad("probe-sets") and index == 2 and put:
                self.state = S.STOP
            return {"payload": payload}
        need = {1: 8, 2: 8, 9: 8, 12: 0}[index]
        if size < need and not self.bad("short-argsz"):
            if self.bad("refused-feature-moves") and self.state == S.STOP:
                self.state = S.RUNNING
            raise OSError(errno.EINVAL, "")
        if size > need and self.bad("long-argsz-refused"):
            raise OSError(errno.EINVAL, "")
        if index == 12:
            self.v2 = 1
        if index == 1:
            if self.bad("get-migration-fails"):
                raise OSError(errno.EIO, "")
            value = int(self.flags)
            value = 6 if self.bad("flags-without-stop-copy") else 15 if self.bad("flags-undefined") else value
            if self.bad("flags-change") and self.state == S.STOP:
                value = 1
            return {"payload": value.to_bytes(8, "little").hex()}
        return {"payload": payload}

    def op_device_info(self, fd: str) -> dict[str, Any]:
        return {"num_regions": 1}

    def op_region_info(self, fd: str, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "size": 16,
            "caps_hex": "0200010000000000"
            + ("0300000001000000" if self.bad("v1-region") else "0100000001000000"),
        }

    # -- data
    def op_read(self, fd: str, n: int, keep: str = "") -> dict[str, Any]:
        data = self._read(self.slots[fd], n)
        if keep:
            self.slots[keep] = data
        return {"ret": len(data), "n": len(data), "hex": data.hex()}

    def _read(self, session: _Session, n: int) -> bytes:
        if self.bad("resuming-fd-readable") and not session.saving:
            return b"x" * n
        if not session.saving:
            raise OSError(errno.EBADF, "")
        if session.end == "serves" and not session.alive and self.session is not None and n:
            return b"old"
        if self.bad("late-fd-breaks") and not self.opened:
            self.broken = True
        if not session.alive:
            if self.bad("dead-fd-eof"):
                return b""
            raise OSError(errno.ENODEV, "")
        if self.bad("read-eio") and session.pos > 20:
            raise OSError(errno.EIO, "")
        if self.bad("read-too-much") and n == 1:
            n = 2
        if self.bad("segments-of-reads-matter") and n == 7 and session.data:
            session.data = session.data[:-1] + b"\xee"
        data = session.data[session.pos : session.pos + n]
        if data or not n:
            session.pos += len(data)
            return data
        in_stop = self.state == S.STOP_COPY or session is not self.session
        if in_stop:
            session.eof += 1
            if self.bad("enomsg-in-stop-copy"):
                raise OSError(errno.ENOMSG, "")
            return b"again" if self.bad("eof-not-permanent") and session.eof > 1 else b""
        if self.bad("eof-in-pre-copy"):
            return b""
        raise OSError(errno.ENOMSG, "")

    def op_read_all(self, fd: str, chunks: list[int], max_bytes: int, keep: str = "") -> dict[str, Any]:
        data, k, end, error = b"", 0, "max", 0
        while len(data) < max_bytes and k < 100000:
            try:
                got = self._read(self.slots[fd], chunks[k % len(chunks)])
            except OSError as e:
                end, error = "errno", e.errno or 0
                break
            if not got:
                end = "eof"
                break
            data, k = data + got, k + 1
        if keep:
            self.slots[keep] = data
        return {
            "ret": len(data),
            "n": len(data),
            "end": end,
            "errno": error,
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def op_write(
        self, fd: str, hex: str = "", from_: str = "", off: int = 0, n: int | None = None
    ) -> dict[str, Any]:
        data = bytes.fromhex(hex) if not from_ else self.slots[from_][off : off + (n or 0)]
        taken = self._write(self.slots[fd], data)
        return {"ret": taken, "n": taken}

    def _write(self, session: _Session, data: bytes) -> int:
        if session.saving:
            if self.bad("saving-fd-writable"):
                return len(data)
            raise OSError(errno.EBADF, "")
        if not session.alive:
            raise OSError(errno.ENODEV, "")
        if session is not self.session:
            return len(data)  # resuming-fd-lives, reset-keeps-resuming
        if len(session.data) + len(data) > 40 and not self.bad("excess-corrupts"):
            session.refused = True
            raise OSError(errno.ENOMEM, "")
        if self.bad("excess-corrupts") and len(session.data) + len(data) > 40:
            data, session.segments = data[: 40 - len(session.data)], -2
        anything = (
            self.bad("exchanged-accepted")
            or self.bad("random-accepted")
            or self.bad("damaged-breaks")
            or self.error
        )
        if (
            not anything
            and len(session.data) < 8
            and (session.data + data)[:8] != _MAGIC[: len(session.data + data)]
        ):
            session.refused = True
            raise OSError(errno.EINVAL, "")
        session.data += data
        session.segments += 1
        return len(data) + (1 if self.bad("write-counts-too-much") else 0)

    def op_write_all(
        self, fd: str, from_: str, chunks: list[int], off: int = 0, n: int | None = None
    ) -> dict[str, Any]:
        data, k, done, error = self.slots[from_][off:], 0, 0, 0
        data = data[:n] if n is not None else data
        while done < len(data):
            piece = data[done : done + chunks[k % len(chunks)]]
            try:
                self._write(self.slots[fd], piece)
            except OSError as e:
                error = e.errno or 0
                break
            done, k = done + len(piece), k + 1
        return {"ret": done if not error else -1, "n": done, "errno": error}

    def op_bytes(
        self,
        out: str,
        hex: str = "",
        from_: str = "",
        off: int = 0,
        n: int | None = None,
        flip: list[list[int]] | None = None,
        concat: list[str] | None = None,
    ) -> dict[str, Any]:
        data = bytearray(bytes.fromhex(hex))
        if from_:
            data = bytearray(self.slots[from_][off : None if n is None else off + n])
        for name in concat or ():
            data += self.slots[name]
        for at, mask in flip or ():
            data[at] ^= mask
        self.slots[out] = bytes(data)
        return {"n": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def op_precopy_info(self, fd: str, argsz: int = 24, flags: int = 0) -> dict[str, Any]:
        session = self.slots[fd]
        if not session.saving and not self.bad("info-on-resuming"):
            raise OSError(errno.ENOTTY, "")
        if argsz < 24 and not self.bad("info-short-argsz"):
            raise OSError(errno.EINVAL, "")
        valid = self.state in PRE_COPY_STATES
        if not valid and not self.bad("info-everywhere") and session.saving:
            raise OSError(errno.ENOTTY if self.bad("info-wrong-errno") else errno.EINVAL, "")
        if session.saving and not session.alive:
            raise OSError(errno.ENODEV, "")
        if (self.bad("no-info") and self.state == S.PRE_COPY) or (
            self.bad("no-info-p2p") and self.state == S.PRE_COPY_P2P
        ):
            raise OSError(errno.EINVAL, "")
        left = len(session.data) - session.pos
        if self.bad("initial-never-falls"):
            left = len(session.data)
        if self.bad("initial-grows"):
            left = 8 + session.pos
        if self.bad("info-lies") and not left:
            left = 1
        return {
            "flags": 6 if self.v2 and self.bad("info-v2-flags") else 0,
            "initial_bytes": left,
            "dirty_bytes": 5 if self.bad("dirty-not-zero") else 0,
        }

    def op_poll(self, fd: str, events: list[str], timeout_ms: int) -> dict[str, Any]:
        return {"revents": [] if self.bad("poll-silent") else ["IN"]}

    def _seek(self) -> dict[str, Any]:
        if self.bad("seekable"):
            return {}
        raise OSError(errno.ESPIPE, "")

    def op_lseek(self, fd: str, off: int, whence: str) -> dict[str, Any]:
        return self._seek()

    def op_pread(self, fd: str, off: int, n: int) -> dict[str, Any]:
        return self._seek()

    def op_pwrite(self, fd: str, off: int, hex: str) -> dict[str, Any]:
        return self._seek()

    def op_dup(self, fd: str, out: str) -> None:
        self.slots[out] = self.slots[fd]
        if self.bad("dup-own-position"):
            old = self.slots[fd]
            self.slots[out] = _Session(old.saving, old.data)

    def op_close(self, fd: str) -> None:
        if fd == "d":
            self._end(not self.bad("close-keeps-session"))
            if self.bad("reopen-stuck") and self.state == S.STOP_COPY:
                self.broken = True
            if not self.bad("open-keeps-state"):
                self.state = S.RUNNING
            self.v2, self.opened = 0, False
            return
        if self.bad("close-fd-stops") and isinstance(self.slots[fd], _Session):
            self.state = S.STOP
        del self.slots[fd]

    def op_socketpair(self, out: list[str]) -> None:
        self.slots.update(dict.fromkeys(out, None))

    def op_send_fd(self, sock: str, fd: str) -> None:
        self.passed = self.slots[fd]

    def op_recv_fd(self, sock: str, out: str) -> None:
        if self.passed is None:
            raise KeyError("passed")
        self.slots[out] = _Session(True, b"") if self.bad("passed-fd-empty") else self.passed

    # -- regions
    def op_region_write(self, fd: str, region: int, off: int, hex: str) -> dict[str, Any]:
        data = bytes.fromhex(hex)
        if off == FAIL:
            self.fail = tuple(data)
        else:
            self.memory[off : off + len(data)] = data
        return {"n": len(data)}

    def op_region_read(self, fd: str, region: int, off: int, n: int) -> dict[str, Any]:
        if self.bad("stop-copy-access-stops") and self.state == S.STOP_COPY:
            self.state = S.STOP
        if self.bad("stop-regions-fail") and self.state == S.STOP:
            raise OSError(errno.EIO, "")
        return {"n": n, "hex": self.memory[off : off + n].hex()}

    def op_fingerprint(self, fd: str, regions: list[list[int]]) -> dict[str, Any]:
        if self.bad("stop-keeps-counting") and self.state == S.STOP:
            self.memory[5] = (self.memory[5] + 1) & 0xFF
        return {"hex": self.memory.hex()}

    # -- opening
    def op_open_cdev(self, dev: str, out: str) -> None:
        self.opened = True

    def op_open_iommufd(self, out: str) -> None:
        self.slots[out] = None

    def op_ioas_alloc(self, fd: str, out: str) -> None: ...
    def op_bind(self, fd: str, iommufd: str) -> None: ...
    def op_attach(self, fd: str, pt: str) -> None: ...
    def op_sleep(self, ms: int) -> None: ...

    def _loaded(self, session: _Session, data: bytes) -> int:
        try:
            return 32 if self._write(session, data) >= len(data) else 0
        except OSError:
            return 0

    def op_walk(self, fd: str, targets: str, stream: str = "") -> dict[str, Any]:
        recs = bytearray()
        held: _Session | None = None
        for target in base64.b64decode(targets):
            before, bits, error, got = self.state, 0, 0, None
            try:
                if target == 255:
                    self.op_reset("d")
                else:
                    res = self.op_set_state("d", target, out="walk")
                    got = self.slots.get("walk") if res["data_fd"] == 1 else None
                    bits |= 3 if got is not None and res["cloexec"] else 1 if got is not None else 0
                    bits |= 16 if res["state"] != target else 0
            except OSError as e:
                error = e.errno or 0
            bits |= 4 if held is not None else 0
            state = self.op_get_state("d")["state"]
            old = 0xFE

            if held is not None and (got is not None or _group(before) != _group(state)):
                try:
                    old = 0xFD if self._read(held, 1) else 0
                except OSError as e:
                    old = e.errno or 0
                held = None
            if got is not None:
                held = got
                if stream and state == S.RESUMING:
                    bits |= self._loaded(got, self.slots[stream])
            recs += bytes([error, state, bits, old])
        return {"recs": base64.b64encode(recs).decode(), "n": len(recs) // 4}


def _group(state: int) -> int:
    return 1 if state in SAVING_GROUP else 2 if state == S.RESUMING else 0


class _PartialError(OSError):
    def __init__(self, number: int, fields: dict[str, Any]) -> None:
        super().__init__(number, "")
        self.fields = fields
