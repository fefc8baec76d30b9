# SPDX-License-Identifier: Apache-2.0
"""Reads a window of a kernel log and says which events in it matter; pure, no I/O.

A record is `(prio, seq, usec, text)`, as `/dev/kmsg` gives it.  An event's title and frames hold no address,
pid, offset or count, so the same defect has the same title in every run.  What is not known to be an event
is none: a stack dump alone (fault injection prints one for each forced failure) says nothing.

Formats: Linux 6.x and 7.x, `kernel/panic.c`, `lib/bug.c`, `mm/kasan/report.c`, `lib/ubsan.c`,
`kernel/locking/lockdep.c`, `kernel/rcu/tree_stall.h`, `drivers/iommu/`, and their like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from harness.oracle.kernel_log_table import FUNC, STARTERS, Severity, Starter

__all__ = ["AGENT_TASK", "TAINT_WARN", "Event", "Record", "Window", "parse_dmesg", "taint_names", "window"]

TAINT_WARN = 1 << 9
"""Documentation/admin-guide/tainted-kernels.rst, bit 9: the kernel has issued a warning."""

Record = tuple[int, int, int, str]
"""(priority, sequence number, microseconds since boot, text)"""

AGENT_TASK = "vfiocert-agent"
"""The name that the agent's threads and actors have for the kernel (`harness.agent.main`)."""
_MAX_LINES = 300
_MAX_LINE = 1000
_MAX_FRAMES = 8
_MAX_EVENTS = 200


@dataclass(frozen=True)
class Event:
    """One report of the kernel.

    `kind` is one of `harness.oracle.kernel_log_table`, or refcount or list-corruption (a WARN or BUG that
    says so), or unfinished (its first line is missing).  `device` is a full PCI address, where the
    line names one.  `modules` are those of every frame, `task` is the name of the task that ran.
    """

    kind: str
    title: str
    severity: Severity
    frames: tuple[str, ...] = ()
    device: str | None = None
    lines: tuple[str, ...] = ()
    count: int = 1
    modules: frozenset[str] = frozenset()
    task: str = ""

    def speaks_of(self, modules: Iterable[str]) -> bool:
        """Whether VFIO, iommufd or one of these modules is in its call traces, or the agent caused it.

        Whatever else the host's kernel has to report (another driver, a file system) is not the device's.
        """
        ours = {name.replace("-", "_") for name in modules}
        return (
            self.task == AGENT_TASK
            or any(name in ours or _OURS.match(name) for name in self.modules)
            or any(_OURS.match(name) for name in self.frames)
        )

    def calls(self, function: str) -> bool:
        """Whether the call trace, guesses included, has this function of the kernel."""
        return any(re.search(rf"\b{re.escape(function)}\+0x", line) for line in self.lines)


@dataclass(frozen=True)
class Window:
    """The events of a span of the log; `lost` says records were overwritten before they were read."""

    events: tuple[Event, ...]
    lost: bool = False

    def findings(self, device: str | None = None, modules: Iterable[str] = ()) -> tuple[Event, ...]:
        """Events that speak against the device with PCI address `device` (None: one without an address).

        An event that names a PCI device counts only for that one; an IOMMU fault that names none for nobody;
        any other where it `speaks_of` VFIO or of `modules`, the device's driver and its PF's.
        """
        mine = _bdf(device) if device else None
        known = frozenset(modules)

        def against(event: Event) -> bool:
            if event.device is None:
                return event.kind != "iommu-fault" and event.speaks_of(known)
            return event.device == mine

        return tuple(event for event in self.events if event.severity == "finding" and against(event))

    def foreign(self, device: str | None = None, modules: Iterable[str] = ()) -> tuple[Event, ...]:
        """Reports of the kernel that are not the device's: for a note, and nobody's finding."""
        mine = self.findings(device, modules)
        return tuple(event for event in self.events if event.severity == "finding" and event not in mine)


_CUT = re.compile(r"^-+\[ cut here \]-+$")
_END_TRACE = re.compile(r"^---\[ end (?:trace|Kernel panic)")
_RULE = re.compile(r"^={20,}$")
_TRACE = re.compile(r"^\s*Call [Tt]race:")
_TASK_END = re.compile(r"^\s*</TASK>")
_FRAME = re.compile(rf"^\s*(?:\[<[0-9a-f]+>\] )?(?P<guess>\? )?{FUNC}(?: \[(?P<module>[\w-]+)[^\]]*\])?")
_AT = re.compile(
    rf"^\s*(?:RIP: [0-9a-f]{{4}}:|pc : |epc : |NIP \[[0-9a-f]+\] ){FUNC}(?: \[(?P<module>[\w-]+)[^\]]*\])?"
)
# Part of an oops that is open already.
_FURTHER = re.compile(
    r"^(?:Oops|Internal error|general protection|invalid opcode|KASAN: |BUG: unable|Kernel panic)"
)
# A panic that only follows from the report before it.
_FOLLOWS = re.compile(
    r"^Kernel panic - not syncing: (?:Fatal exception|Oops|.*(?:panic_on_\w+ set|hung_task|lockup))"
)
_LAB_PANIC = re.compile(r"Out of memory|Attempted to kill init|VFS: |No working init|System is deadlocked")
_LIST = re.compile(r"^list_(?:add|del) (?:corruption|double add)")
_FAULT_INJECTION = re.compile(r"^FAULT_INJECTION: forcing a failure")
_OOPSES = frozenset({"null-deref", "page-fault", "gpf", "oops", "bug"})
_STALLS = frozenset({"soft-lockup", "hard-lockup", "rcu-stall", "hung-task"})

# Frames that report or enter: they are the same whatever went wrong.
_MACHINERY = re.compile(
    r"^(?:panic|vpanic|dump_stack\w*|show_stack|show_regs|sched_show_task|print_\w+|kasan_\w+|__kasan_\w+|__(?:asan|hwasan)_\w+|"
    r"check_region_inline|__warn\w*|warn_slowpath\w*|report_bug|__report_bug|handle_bug|die\w*|__die\w*|oops_\w+|"
    r"page_fault_oops|do_error_trap|do_user_addr_fault|do_kern_addr_fault|exc_\w+|asm_\w+|sysvec_\w+|"
    r"ubsan_\w+|__ubsan_\w+|handle_overflow|__refcount_\w+|refcount_\w+|__list_\w+|check_data_corruption|"
    r"lock_acquire|lock_release|__lock_\w+|check_noncircular|check_prevs?_add|validate_chain|mark_lock\w*|"
    r"lockdep_\w+|reacquire_held_locks|debug_\w+|__might_\w+|__schedule\w*|schedule\w*|preempt_schedule\w*|"
    r"_raw_\w+lock\w*|(?:__)?mutex_(?:un)?lock\w*|__mutex_\w+|(?:down|up)_(?:read|write)\w*|rwsem_\w+|"
    r"wait_for_completion\w*|__wait_for_common|rcu_\w+|watchdog_\w+|__hrtimer_\w+|hrtimer_\w+|"
    r"memcpy\w*|memset\w*|memmove\w*|_copy_(?:from|to)_\w+|rep_movs\w*|kfree\w*|kvfree\w*|kmem_cache_free\w*|"
    r"check_bytes_and_report|check_object|free_to_partial_list|object_err|slab_err|bad_page|free_unref_\w+|"
    r"io_schedule\w*|bit_wait\w*|do_syscall_64|x64_sys_call|entry_SYSCALL\w*|ret_from_\w+|invoke_syscall\w*|el0\w*|el1\w*|do_el0\w*)$"
)
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv)\b.*$")
_OURS = re.compile(r"^(?:vfio|iommufd|iopt_|mdev|iommu_(?!dma))")
_COMM = re.compile(r"^CPU: \d+ (?:UID: \d+ )?PID: \d+ Comm: (?P<task>\S+)")


def _bdf(text: str) -> str:
    """A PCI address in full: with its domain, in lower case."""
    low = text.strip().lower()
    return low if low.count(":") == 2 else f"0000:{low}"


@dataclass
class _Open:
    """An event being read; `starter` is unknown while only the line that cuts has been seen."""

    starter: Starter | None
    base: str = ""
    device: str | None = None
    lines: list[str] = field(default_factory=list)
    frames: list[tuple[str, str]] = field(default_factory=list)
    """(function, module or "") of the call trace."""
    guesses: list[tuple[str, str]] = field(default_factory=list)
    """Frames with a question mark: all there is on a kernel without an unwinder."""
    in_trace: bool = False
    traced: bool = False
    task: str = ""

    @property
    def kind(self) -> str:
        return self.starter.kind if self.starter else ""

    def begin(self, starter: Starter, match: re.Match[str]) -> None:
        self.starter, self.base = starter, starter.base(match)
        groups = match.groupdict()
        address = groups.get("bdf2") or groups.get("bdf")
        self.device = _bdf(address) if address else None
        if groups.get("func"):
            module = re.match(r"[^\[]{0,40}\[([\w-]+)", match.string[match.end("func") :])
            self.frames.append((_plain(groups["func"]), module[1] if module else ""))

    def take(self, line: str) -> None:
        if len(self.lines) < _MAX_LINES:
            self.lines.append(line[:_MAX_LINE])
        comm = _COMM.match(line.strip())
        if comm and not self.task:
            self.task = comm["task"]
        at = _AT.match(line)
        if at and not self.traced:
            self.frames.append((_plain(at["func"]), at["module"] or ""))
        elif _TRACE.match(line):
            # Of several stacks (who allocated, who freed) the first tells where it went wrong.
            self.in_trace = not self.traced
            self.traced = True
        elif self.in_trace:
            frame = _FRAME.match(line)
            if frame:
                into = self.guesses if frame["guess"] else self.frames
                into.append((_plain(frame["func"]), frame["module"] or ""))
            elif (
                not line.strip()
                or _TASK_END.match(line)
                or line.startswith(("RIP: 0033", "Allocated by", "Code:"))
            ):
                self.in_trace = False

    def event(self) -> Event:
        telling: list[str] = []
        for known in (self.frames, self.guesses):
            names = list(dict.fromkeys(name for name, _ in known))
            telling = telling or [name for name in names if not _MACHINERY.match(name)]
        telling = telling or list(dict.fromkeys(name for name, _ in self.frames))
        frames = tuple(telling[:_MAX_FRAMES])
        if self.starter is None:
            return Event(
                "unfinished", "kernel report without its first line", "note", frames, None, tuple(self.lines)
            )
        kind, base, severity = self.kind, self.base, self.starter.severity
        text = "\n".join(self.lines)
        if kind in ("warn", "bug"):
            kind, base = _refined(kind, base, text)
        access = re.search(r"^(Read|Write) of size \d+", text, re.M) if kind == "kasan" else None
        if access:
            base += f" {access[1]}"
        if kind in _STALLS and not any(
            module or _OURS.match(name) for name, module in self.frames + self.guesses
        ):
            severity = "note"  # a starved lab host stalls too: only a stack in the driver speaks against it
        if kind == "panic" and _LAB_PANIC.search(text):
            severity = "note"
        title = f"{base} in {frames[0]}" if frames else base
        modules = frozenset(m.replace("-", "_") for _, m in self.frames + self.guesses if m)
        return Event(
            kind, title, severity, frames, self.device, tuple(self.lines), modules=modules, task=self.task
        )


def _plain(name: str) -> str:
    return _SUFFIX.sub("", name)


def _refined(kind: str, base: str, text: str) -> tuple[str, str]:
    """Kind and title of a WARN or BUG whose message says what is wrong."""
    counter = re.search(r"refcount_t: ([\w -]+; [\w -]+)", text)
    if counter:
        return "refcount", f"refcount_t: {counter[1]}"
    corrupt = re.search(r"(list_(?:add|del)) (?:corruption|double add)", text)
    if corrupt:
        return "list-corruption", f"{corrupt[0]}"
    return kind, base


def _lines(records: Iterable[Record]) -> Iterable[str]:
    """The lines of the records, with what `/dev/kmsg` escapes written out."""
    for _, _, _, text in records:
        decoded = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text)
        for line in decoded.split("\n"):
            if not re.match(r"^ (?:SUBSYSTEM|DEVICE)=", line):
                yield line.rstrip().replace("\t", "        ")


def _start(line: str) -> tuple[Starter, re.Match[str]] | None:
    for starter in STARTERS:
        match = starter.pattern.search(line)
        if match:
            return starter, match
    return None


def _ended(current: _Open, line: str) -> bool:
    """Whether `line`, already taken, is the last of the event."""
    ends = current.starter.ends if current.starter else "trace"
    if ends == "line" or _END_TRACE.match(line):
        return True
    if ends == "rule":
        return bool(_RULE.match(line))
    return ends == "task" and (bool(_TASK_END.match(line)) or (current.traced and not current.in_trace))


def window(records: Sequence[Record], lost: bool = False) -> Window:
    """The events in `records`, oldest first; repeats of one event are one with a count."""
    events: list[Event] = []
    current: _Open | None = None
    previous = ""
    for line in _lines(records):
        found = _start(line.strip()) if line else None
        joins = current is not None and (
            current.starter is None or (current.kind in _OOPSES and _FURTHER.match(line.strip()) is not None)
        )
        if _FOLLOWS.match(line.strip()) and (events or current):
            found = None
        if current and (_CUT.match(line) or _FAULT_INJECTION.match(line) or (found and not joins)):
            events.append(current.event())
            current = None
        if current is None and (_CUT.match(line) or found):
            # With BUG_ON_DATA_CORRUPTION the message stands above the line that cuts.
            current = _Open(None, lines=[previous] if _LIST.match(previous) else [])
        previous = line
        if current is None:
            continue
        if found and current.starter is None:
            current.begin(*found)
        current.take(line)
        if _ended(current, line.strip()):
            events.append(current.event())
            current = None
    if current:
        events.append(current.event())
    return Window(_merged(events), lost)


def _merged(events: Iterable[Event]) -> tuple[Event, ...]:
    counts: dict[tuple[str, str, str | None], int] = {}
    first: dict[tuple[str, str, str | None], Event] = {}
    for event in events:
        key = (event.kind, event.title, event.device)
        counts[key] = counts.get(key, 0) + 1
        if len(first) < _MAX_EVENTS:
            first.setdefault(key, event)
    return tuple(replace(e, count=counts[key]) for key, e in first.items())


def parse_dmesg(text: str) -> list[Record]:
    """Records from what `dmesg` or a serial console shows (`<4>[   12.345678] text`, both marks optional)."""
    records = []
    for number, line in enumerate(text.splitlines()):
        match = re.match(r"^(?:<(\d+)>)?(?:\[\s*(\d+)\.(\d{6})\](?:\[\s*[TC]\d+\])? ?)?(.*)$", line)
        if match:
            usec = int(match[2] or 0) * 1_000_000 + int(match[3] or 0)
            records.append((int(match[1] or 6), number, usec, match[4]))
    return records


# kernel/panic.c, taint_flags; Documentation/admin-guide/tainted-kernels.rst
_TAINTS = (
    "proprietary module", "forced module", "cpu out of spec", "forced rmmod", "machine check", "bad page",
    "user request", "die (oops or bug)", "overridden acpi table", "warn", "staging driver",
    "firmware workaround", "out-of-tree module", "unsigned module", "soft lockup", "live patch", "auxiliary",
    "randstruct", "test", "fwctl",
)  # fmt: skip


def taint_names(value: int) -> tuple[str, ...]:
    """Names of the bits set in `/proc/sys/kernel/tainted`; a bit this table does not know is `bit N`."""
    if value < 0:
        raise ValueError(f"taint={value} is negative; /proc/sys/kernel/tainted holds a bit mask")
    return tuple(
        _TAINTS[bit] if bit < len(_TAINTS) else f"bit {bit}"
        for bit in range(value.bit_length())
        if value >> bit & 1
    )
