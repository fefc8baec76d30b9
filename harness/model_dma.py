# SPDX-License-Identifier: Apache-2.0
"""The model with DMA: memory, an address space, traffic, device DMA logging and interrupts.

As `harness.model`: it keeps every rule, or breaks the ones it is told to.  Time is the number of the
operation; endless traffic writes once after each.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Mapping
from typing import Any

from harness.dirty_pages import PAGE, expand, fold, pages_of, span
from harness.model import CAPABILITIES, ModelAgent
from harness.spec.fsm import S

__all__ = ["DMA_CAPABILITIES", "LOG_DEFECTS", "QUIET_DEFECTS", "DmaModelAgent"]

DMA_CAPABILITIES: dict[str, Any] = {
    **CAPABILITIES, "dma_logging": True, "dma_logging_any": True, "engine": "vfiocert_ref",
    **{f"engine_{gift}": True for gift in ("read", "endless", "begin", "strided", "interrupt", "timer")},
    "engine_bytes": True, "engine_p2p": True, "engine_quiesces": True,
}  # fmt: skip

LOG_DEFECTS: dict[str, str] = {
    "report-undeclared": "DIRTY-001",
    "probe-start-by-get": "DIRTY-002",
    "probe-starts": "DIRTY-003",
    "probe-report-clears": "DIRTY-003",
    "log-short-argsz": "DIRTY-004",
    "stop-by-get": "DIRTY-005",
    "log-long-argsz-refused": "DIRTY-006",
    "start-refused": "DIRTY-010",
    "few-ranges": "DIRTY-011",
    "second-start": "DIRTY-012",
    "second-start-clears": "DIRTY-013",
    "failed-start-stays": "DIRTY-014",
    "large-hint-refused": "DIRTY-015",
    "page-size-zero": "DIRTY-016",
    "overlap-taken": "DIRTY-017",
    "unaligned-taken": "DIRTY-018",
    "wrap-taken": "DIRTY-019",
    "no-ranges-taken": "DIRTY-020",
    "odd-start-sticks": "DIRTY-021",
    "fault-start-taken": "DIRTY-022",
    "every-seventh-lost": "DIRTY-030",
    "report-keeps": "DIRTY-031",
    "report-clears-all": "DIRTY-032",
    "report-clears-neighbours": "DIRTY-032",
    "bitmap-overwritten": "DIRTY-033",
    "bit-beyond": "DIRTY-034",
    "write-beside-bitmap": "DIRTY-035",
    "larger-pages-first-only": "DIRTY-036",
    "larger-pages-aligned": "DIRTY-036",
    "smaller-pages-first-only": "DIRTY-037",
    "bitmap-cut-at-page": "DIRTY-038",
    "report-without-start": "DIRTY-039",
    "stop-keeps-log": "DIRTY-040",
    "stop-keeps-pages": "DIRTY-041",
    "start-once": "DIRTY-042",
    "first-range-only": "DIRTY-043",
    "last-page-lost": "DIRTY-044",
    "state-clears-log": "DIRTY-045",
    "reset-loses-pages": "DIRTY-046",
    "close-keeps-log": "DIRTY-047",
    "report-refused-in-stop": "DIRTY-048",
    "start-refused-in-stop": "DIRTY-049",
    "odd-page-size-taken": "DIRTY-050",
    "report-wraps": "DIRTY-051",
    "beyond-is-empty": "DIRTY-053",
    "reads-logged": "DIRTY-054",
    "late-write-lost": "DIRTY-055",
    "tail-lost": "DIRTY-057",
    "dirty-once": "DIRTY-058",
    "stop-without-log-breaks": "DIRTY-059",
    "outside-clears": "DIRTY-060",
    "partial-report-refused": "DIRTY-061",
}
"""Defect of the log -> the clause it breaks."""

QUIET_DEFECTS: dict[str, str] = {
    "interrupt-in-stop": "MIG-128",
    "dma-in-stop": "MIG-129",
    "dma-in-resuming": "MIG-129",
    "half-a-block": "MIG-170",
    "p2p-goes-on": "MIG-171",
    "traffic-lost": "MIG-172",
    "counter-in-stop": "MIG-173",
    "restore-forgets-traffic": "MIG-174",
    "command-in-stop-runs": "MIG-175",
    "pending-lost": "MIG-176",
    "interrupts-lost": "MIG-177",
}
"""Defect of quiescence -> the clause it breaks."""

_PROBE, _SET, _GET = 1 << 18, 1 << 17, 1 << 16
_START, _STOP, _REPORT = 6, 7, 8
_MOST = 256
_TOP = 1 << 64
_RUNS = (S.RUNNING, S.PRE_COPY)
_QUIET_P2P = (S.RUNNING_P2P, S.PRE_COPY_P2P)


class DmaModelAgent(ModelAgent):
    """The model with DMA; `defects` may be of LOG_DEFECTS and QUIET_DEFECTS too."""

    def __init__(self, *defects: str, **options: Any) -> None:
        super().__init__(*defects, **options)
        self.mems: dict[str, bytearray] = {}
        self.maps: list[tuple[int, str, int, int]] = []
        self.log: list[list[int]] | None = None
        """[base, pages, dirty, reported once] of each range, None where no log is kept."""
        self.grain = 1
        self.starts = 0
        self.stuck = False
        self.endless: Mapping[str, Any] | None = None
        self.pending: list[Mapping[str, Any]] = []
        self.events: dict[str, int] = {}
        self.armed = ""
        self.held_irqs = 0
        self.timer_on = False
        self.saved_endless: Mapping[str, Any] | None = None
        self.late: list[Mapping[str, Any]] = []
        """Of a broken model: the second halves of blocks, written after the device has stopped."""
        self.ticks_stopped = 0

    # -- programs of several threads, one operation after the other
    def run(self, program: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The trace; other threads run where the main one comes to its first barrier."""
        order: list[tuple[str, int, Any]] = []
        main, *others = program["threads"]
        for i, op in enumerate(main["ops"]):
            order.append((main["name"], i, op))
            if op[0] == "barrier" and others:
                order += [(t["name"], k, o) for t in others for k, o in enumerate(t["ops"])]
                others = []
        flat = {"threads": [{"name": "main", "ops": [op for _, _, op in order]}]}
        self.slots["i"] = None  # the session's iommufd
        trace = super().run(flat)
        for rec, (name, i, _) in zip(trace, order, strict=True):
            rec.update(t=name, i=i)
        self.mems, self.maps, self.events = {}, [], {}
        return trace

    # -- memory
    def op_mmap(self, out: str, n: int, **_: Any) -> None:
        self.mems[out] = bytearray(n)

    def op_mem_write(self, mem: str, hex: str, off: int = 0, width: int = 1) -> None:
        data = bytes.fromhex(hex)
        self.mems[mem][off : off + len(data)] = data

    def op_mem_fill(self, mem: str, value: int) -> None:
        self.mems[mem][:] = bytes([value]) * len(self.mems[mem])

    def op_mem_dirty(self, mem: str, value: int) -> dict[str, Any]:
        self._tick()
        data, clean = bytes(self.mems[mem]), bytes([value]) * PAGE
        pages = [n for n in range(len(data) // PAGE) if data[n * PAGE : (n + 1) * PAGE] != clean]
        return {"pages": len(pages), "ranges": [[n, 1] for n in pages], "more": False}

    def op_mem_poll(self, mem: str, **args: Any) -> dict[str, Any]:
        self._tick()
        off, width = args.get("off", 0), args["width"]
        value = int.from_bytes(self.mems[mem][off : off + width], "little")
        return {"done": (value & args["mask"] == args["value"]) != bool(args.get("differs")), "value": value}

    def op_ioas_map(self, fd: str, ioas: str, mem: str, n: int, iova: int, off: int = 0) -> dict[str, Any]:
        self.maps.append((iova, mem, off, n))
        return {"iova": iova}

    def op_ioas_unmap(self, fd: str, ioas: str, iova: int, n: int) -> None:
        self.maps = [m for m in self.maps if not iova <= m[0] < iova + n]

    def op_barrier(self, name: str, parties: int) -> None: ...

    def op_sleep(self, ms: int) -> None:
        self._tick()

    # -- traffic
    def _place(self, iova: int, length: int) -> tuple[bytearray, int] | None:
        for base, mem, off, n in self.maps:
            if base <= iova and iova + length <= base + n:
                return self.mems[mem], iova - base + off
        return None

    def _dma_write(self, effect: Mapping[str, Any]) -> bool:
        count, stride = effect["count"], effect["stride"]
        for k in range(count):
            place = self._place(effect["iova"] + k * stride, effect["length"])
            if place is None:
                return False
            length = effect["length"]
            word = (effect["seed"] + k & 0xFFFFFFFF).to_bytes(4, "little")
            place[0][place[1] : place[1] + length] = (word * (length // 4 + 1))[:length]
        self._logged(effect)
        return True

    def _logged(self, effect: Mapping[str, Any]) -> None:
        length = effect["length"]
        if self.bad("last-page-lost") and effect["iova"] % PAGE and effect["count"] == 1:
            length = max(1, min(length, PAGE - effect["iova"] % PAGE))
        touched = False
        for number, entry in enumerate(self.log or ()):
            base, pages, dirty, once = entry
            new = pages_of(base, pages, effect["iova"], length, effect["count"], effect["stride"])
            touched = touched or bool(new)
            if self.bad("every-seventh-lost"):
                new &= ~int("1000000" * 20, 2)
            if self.bad("first-range-only") and number:
                new = 0
            if self.bad("dirty-once"):
                new &= ~once
            if self.bad("tail-lost"):
                new &= span(0, 1 << 17)
            entry[2] = dirty | self._grains(base, new)
        if self.bad("outside-clears") and self.log and not touched:
            for entry in self.log:
                entry[2] = 0

    def _grains(self, base: int, pages: int) -> int:
        off = base // PAGE % self.grain
        return expand(fold(pages << off, self.grain), self.grain, pages.bit_length() + 2 * self.grain) >> off

    def _tick(self) -> None:
        """Time goes by: endless traffic, the timer."""
        if self.state not in (*_RUNS, *_QUIET_P2P):
            self.ticks_stopped += 1
            if self.ticks_stopped > 1:
                for effect in self.late:
                    self._dma_write(effect)
                self.late = []
        running = self.state in _RUNS or (self.state in _QUIET_P2P and not (self.endless or {}).get("p2p"))
        if self.bad("dma-in-stop") and self.state in (S.STOP, S.STOP_COPY):
            running = True
        if self.bad("dma-in-resuming") and self.state == S.RESUMING:
            running = True
        if self.bad("p2p-goes-on") and self.state in _QUIET_P2P:
            running = True
        if self.endless is not None and running:
            self._dma_write(self.endless)
        if self.timer_on:
            self._interrupt()
        if self.bad("counter-in-stop") and self.state == S.STOP and self.endless is not None:
            self.memory[7] = (self.memory[7] + 1) & 0xFF

    def _interrupt(self) -> None:
        if self.state in (*_RUNS, *_QUIET_P2P) or (self.bad("interrupt-in-stop") and self.state == S.STOP):
            if self.armed:
                self.events[self.armed] = self.events.get(self.armed, 0) + 1
        else:
            self.held_irqs = 1

    def _settle(self) -> None:
        """Work under way ends: it was asked for, and the device runs."""
        for effect in self.pending:
            if self.bad("late-write-lost"):
                log, self.log = self.log, None
                self._dma_write(effect)
                self.log = log
            else:
                self._dma_write(effect)
        self.pending = []

    def op_dma(self, fd: str, steps: list[Any], effect: Mapping[str, Any]) -> dict[str, Any]:
        what = effect["do"]
        runs = self.state in (*_RUNS, *_QUIET_P2P)
        if effect.get("p2p") and self.state in _QUIET_P2P and not self.bad("p2p-goes-on"):
            runs = False
        runs = runs or (self.bad("command-in-stop-runs") and self.state == S.STOP)
        done = True
        if what == "write":
            done = runs and self._dma_write(effect)
        elif what == "read" and self.bad("reads-logged"):
            self._logged(effect)
        elif what == "begin":
            self.pending.append(effect)
            if self.state not in (*_RUNS, *_QUIET_P2P) and self.bad("command-in-stop-runs"):
                self._settle()
        elif what == "wait":
            done = runs
            if runs:
                self._settle()
        elif what == "start":
            self.endless = effect
        elif what == "stop":
            self.endless = None
        elif what == "interrupt":
            self._interrupt()
        elif what in ("timer", "timer-off"):
            self.timer_on = what == "timer"
        return {"done": done, "value": 2 if done else 1, "values": []}

    # -- interrupts
    def op_eventfd(self, out: str, nonblock: bool = False) -> None:
        self.slots[out] = None
        self.events[out] = 0

    def op_set_irqs(self, fds: list[str], **_: Any) -> dict[str, Any]:
        self.armed = fds[0]
        return {}

    def op_eventfd_read(self, fd: str, timeout_ms: int = 0) -> dict[str, Any]:
        self._tick()
        if not self.events.get(fd):
            raise OSError(errno.EAGAIN, "")
        value, self.events[fd] = self.events[fd], 0
        return {"value": value}

    # -- states
    def op_set_state(self, fd: str, state: int, out: str = "", argsz: int = 16) -> dict[str, Any]:
        before = self.state
        if before in (*_RUNS, *_QUIET_P2P) and self.pending and state not in (*_RUNS, S.ERROR):
            if self.bad("pending-lost"):
                pass  # kept, and forgotten on the way back
            elif self.bad("half-a-block"):
                for effect in self.pending:
                    self._dma_write({**effect, "length": effect["length"] // 2})
                self.late, self.pending = self.pending, []
            else:
                self._settle()
        result = super().op_set_state(fd, state, out, argsz)
        if before != self.state and self.bad("state-clears-log") and self.log:
            for entry in self.log:
                entry[2] = 0
        if self.state == S.STOP_COPY:
            self.saved_endless = self.endless
        if before == S.RESUMING and self.state == S.STOP and not self.bad("restore-forgets-traffic"):
            self.endless = self.saved_endless
        if self.state in _RUNS and before not in _RUNS:
            if self.bad("traffic-lost"):
                self.endless = None
            if self.bad("pending-lost"):
                self.pending = []
            if self.bad("interrupts-lost"):
                self.armed = ""
            self.ticks_stopped = 0
            self._settle()
            if self.held_irqs and self.armed:
                self.events[self.armed] = self.events.get(self.armed, 0) + 1
            self.held_irqs = 0
        return result

    def op_reset(self, fd: str) -> None:
        super().op_reset(fd)
        self.endless, self.pending, self.timer_on, self.held_irqs = None, [], False, 0
        if self.bad("reset-loses-pages") and self.log:
            for entry in self.log:
                entry[2] = 0
        else:
            self.log = None

    def op_close(self, fd: str) -> None:
        super().op_close(fd)
        if fd == "d":
            self.endless, self.pending, self.timer_on = None, [], False
            if not self.bad("close-keeps-log"):
                self.log = None

    # -- the log
    def op_dma_logging_start(
        self,
        fd: str,
        page_size: int,
        ranges: list[list[int]],
        num_ranges: int | None = None,
        reserved: int = 0,
    ) -> dict[str, Any]:
        count = len(ranges) if num_ranges is None else num_ranges
        try:
            self._start_checked(page_size, ranges[:count], count, reserved)
        except OSError:
            if self.bad("failed-start-stays") and self.log is None:
                self.log = [[0, 1, 0, 0]]
            raise
        return {"page_size": 0 if self.bad("page-size-zero") else page_size}

    def _start_checked(self, size: int, ranges: list[list[int]], count: int, reserved: int) -> None:
        refuse = OSError(errno.EINVAL, "")
        self.starts += 1
        if self.stuck or (self.bad("start-once") and self.starts > 1):
            raise refuse
        if self.bad("odd-start-sticks") and (reserved or count > _MOST or any(not n for _, n in ranges)):
            self.stuck = True
            raise refuse
        if self.bad("start-refused") or (self.bad("start-refused-in-stop") and self.state == S.STOP):
            raise refuse
        if self.log is not None and not self.bad("second-start"):
            if self.bad("second-start-clears"):
                for entry in self.log:
                    entry[2] = 0
            raise OSError(errno.EBUSY, "")
        if (not count and not self.bad("no-ranges-taken")) or count > _MOST:
            raise refuse
        if self.bad("few-ranges") and count > 16:
            raise refuse
        if size <= 0 or size & (size - 1) or (self.bad("large-hint-refused") and size > 65536):
            raise refuse
        for iova, length in ranges:
            aligned = (not iova % size and not length % size) or self.bad("unaligned-taken")
            if not aligned or not length or (iova + length > _TOP and not self.bad("wrap-taken")):
                raise refuse
        ordered = sorted(ranges)
        for (a, n), (b, _) in itertools.pairwise(ordered):
            if a + n > b and not self.bad("overlap-taken"):
                raise refuse
        self.grain = max(1, min(size, 65536) // PAGE)
        old = self.log_kept if self.bad("stop-keeps-pages") and hasattr(self, "log_kept") else {}
        self.log = [[a // PAGE * PAGE, -(-n // PAGE), old.get(a, 0), 0] for a, n in ranges]

    def op_dma_logging_stop(self, fd: str) -> None:
        if self.log is None:
            if self.bad("stop-without-log-breaks"):
                self.stuck = self.starts == 0 or self.stuck
            return
        self.log_kept = {base: dirty for base, _, dirty, _ in self.log}
        if not self.bad("stop-keeps-log"):
            self.log = None

    def op_dma_logging_report(
        self,
        fd: str,
        iova: int,
        length: int,
        page_size: int,
        bitmap_bytes: int,
        off: int = 0,
        preset: str = "",
    ) -> dict[str, Any]:
        before = int.from_bytes(bytes.fromhex(preset), "little")
        odd = page_size < PAGE or page_size & (page_size - 1)
        if odd and not self.bad("odd-page-size-taken"):
            raise OSError(errno.EINVAL, "")
        if iova + length > _TOP and not self.bad("report-wraps"):
            raise OSError(errno.EOVERFLOW, "")
        if self.log is None and not self.bad("report-without-start"):
            raise OSError(errno.EINVAL, "")
        if self.bad("report-refused-in-stop") and self.state == S.STOP:
            raise OSError(errno.EINVAL, "")
        if self.bad("partial-report-refused") and length == 2 * PAGE:
            raise OSError(errno.EINVAL, "")
        bits = 0 if odd or not length else self._report(iova, length, page_size)
        count = -(-length // page_size) if page_size else 0
        if self.bad("bitmap-cut-at-page") and off % PAGE and off % PAGE + bitmap_bytes > PAGE:
            bits &= span(0, 8 * (PAGE - off % PAGE))
        if self.bad("bit-beyond") and count and bits >> (count - 1) & 1:
            bits |= 1 << count
        result = bits if self.bad("bitmap-overwritten") else bits | before
        data = result.to_bytes(bitmap_bytes + 8, "little")[:bitmap_bytes]
        return {"bitmap": data.hex(), "guard": not (self.bad("write-beside-bitmap") and bits)}

    def _report(self, iova: int, length: int, size: int) -> int:
        bits = 0
        inside = any(b <= iova and iova + length <= b + n * PAGE for b, n, _, _ in self.log or ())
        if self.bad("beyond-is-empty") and not inside:
            return 0
        for entry in self.log or ():
            base, pages, dirty, _ = entry
            shift = (base - iova) // PAGE
            start = max(0, -shift)
            end = max(start, min(pages, -(-length // PAGE) - shift, dirty.bit_length()))
            found = dirty & span(start, end)
            if self.bad("smaller-pages-first-only") and size < self.grain * PAGE:
                found &= int("1".rjust(self.grain, "0") * (-(-max(1, end) // self.grain)), 2) << 1
            moved = found << shift if shift >= 0 else found >> -shift
            if self.bad("larger-pages-first-only") and size > PAGE:
                factor = size // PAGE
                moved &= sum(1 << (n * factor) for n in range(-(-max(1, end) // factor)))
            if self.bad("larger-pages-aligned") and iova % size:
                continue
            bits |= fold(moved, size // PAGE)
            entry[3] |= found
            cleared = span(start, end)
            if self.bad("report-clears-all"):
                cleared = dirty
            if self.bad("report-clears-neighbours") and start < end:
                cleared |= span(max(0, start - 1), end + 1)
            if not self.bad("report-keeps"):
                entry[2] &= ~cleared
        return bits

    # -- the feature ioctl by hand
    def op_feature(
        self,
        fd: str,
        flags: int,
        payload: str = "",
        argsz: int | None = None,
        ptrs: list[list[Any]] | None = None,
    ) -> dict[str, Any]:
        index = flags & 0xFFFF
        if index not in (_START, _STOP, _REPORT):
            return super().op_feature(fd, flags, payload, argsz)
        size = (argsz if argsz is not None else 8 + len(payload) // 2) - 8
        right = _GET if index == _REPORT else _SET
        wrong = flags & (_GET | _SET) & ~right
        allowed = (index == _START and flags & _PROBE and self.bad("probe-start-by-get")) or (
            index == _STOP and not flags & _PROBE and self.bad("stop-by-get")
        )
        if wrong and not allowed:
            raise OSError(errno.ENOTTY, "")
        if flags & _PROBE:
            return self._probed(index, payload)
        need = {_START: 24, _STOP: 0, _REPORT: 32}[index]
        if size < need and not self.bad("log-short-argsz"):
            raise OSError(errno.EINVAL, "")
        if size > need and self.bad("log-long-argsz-refused"):
            raise OSError(errno.EINVAL, "")
        if index == _STOP:
            self.op_dma_logging_stop(fd)
        elif index == _START and size >= need:
            self._start_by_hand(bytes.fromhex(payload), ptrs)
        elif size >= need:
            iova, length, page, _ = struct.unpack_from("<QQQQ", bytes.fromhex(payload))
            self.op_dma_logging_report(fd, iova, length, page, 8 * (length // page // 64 + 1))
        return {"payload": payload}

    def _probed(self, index: int, payload: str) -> dict[str, Any]:
        if index == _REPORT and self.bad("report-undeclared"):
            raise OSError(errno.ENOTTY, "")
        if index == _START and self.bad("probe-starts") and self.log is None:
            self.log = [[0, 1 << 20, 0, 0]]
        if index == _REPORT and self.bad("probe-report-clears") and self.log:
            for entry in self.log:
                entry[2] = 0
        return {"payload": payload}

    def _start_by_hand(self, data: bytes, ptrs: list[list[Any]] | None) -> None:
        size, count, reserved, _ = struct.unpack_from("<QIIQ", data)
        if not ptrs:
            if self.bad("fault-start-taken"):
                return
            raise OSError(errno.EFAULT, "")
        mem, off = self.mems[ptrs[0][1]], ptrs[0][2]
        ranges = [list(struct.unpack_from("<QQ", mem, off + 16 * n)) for n in range(count)]
        self._start_checked(size, ranges, count, reserved)
