# SPDX-License-Identifier: Apache-2.0
"""The lines by which the kernel begins to report something; data for `harness.oracle.kernel_log`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["FUNC", "STARTERS", "Severity", "Starter", "stable"]

Severity = Literal["finding", "note"]

# -- lines that begin an event

FUNC = r"(?P<func>[A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
_BDF = r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]"
_LOCKDEP = (
    r"possible circular locking dependency detected|possible recursive locking detected|"
    r"\S+-safe -> \S+-unsafe lock order detected|inconsistent lock state|"
    r"possible irq lock inversion dependency detected|bad unlock balance detected|bad contention detected|"
    r"held lock freed|lock held when returning to user space|suspicious RCU usage|Nested lock was not taken|"
    r"chain_key collision|Invalid wait context|Mutex still has locks held"
)
_Namer = Callable[[re.Match[str]], str]


def stable(text: str) -> str:
    """`text` without what differs from run to run: addresses and numbers."""
    text = re.sub(r"\b(?:0x)?[0-9a-f]{8,16}\b|\b0x[0-9a-f]+\b", "ADDR", text)
    text = re.sub(r"(?<![\w-])\d+\b", "N", text)
    return " ".join(text.split())[:200].rstrip(" .!")


@dataclass(frozen=True)
class Starter:
    """One kind of first line, and how to tell where the report ends."""

    kind: str
    pattern: re.Pattern[str]
    base: _Namer
    ends: Literal["trace", "rule", "task", "line"]
    """What ends it: the end-of-trace marker, a rule of equal signs, the end of its stack, its own line."""
    severity: Severity = "finding"


def _fixed(text: str) -> _Namer:
    return lambda match: text


def _group(form: str) -> _Namer:
    return lambda match: stable(form.format(**{k: v or "" for k, v in match.groupdict().items()}))


def _s(kind: str, pattern: str, base: str, ends: str = "trace", severity: str = "finding") -> Starter:
    namer = _group(base) if "{" in base else _fixed(base)
    return Starter(kind, re.compile(pattern), namer, ends, severity)  # type: ignore[arg-type]


# In this order: the first that matches is taken.
STARTERS: tuple[Starter, ...] = (
    _s("kasan", rf"^BUG: KASAN: (?P<what>[\w-]+)(?: in {FUNC})?", "KASAN: {what}", "rule"),
    _s("kfence", rf"^BUG: KFENCE: (?P<what>[\w -]+?)(?: in {FUNC}.*)?$", "KFENCE: {what}", "rule"),
    _s("kmsan", rf"^BUG: KMSAN: (?P<what>[\w-]+) in {FUNC}", "KMSAN: {what}", "rule"),
    _s("kcsan", rf"^BUG: KCSAN: (?P<what>[\w-]+) in {FUNC}", "KCSAN: {what}", "rule"),
    _s("ubsan", r"^UBSAN: (?P<what>[\w -]+) in (?P<file>[^ :]+):", "UBSAN: {what}"),
    _s("null-deref", r"^BUG: kernel NULL pointer dereference", "kernel NULL pointer dereference"),
    _s("null-deref", r"^Unable to handle kernel NULL pointer deref", "kernel NULL pointer dereference"),
    _s("page-fault", r"^BUG: unable to handle (?:page fault|kernel paging request)", "kernel page fault"),
    _s(
        "page-fault",
        r"^Unable to handle kernel (?:paging request|access|execute|read|write)",
        "kernel page fault",
    ),
    _s("gpf", r"^(?:Oops: )?general protection fault", "general protection fault"),
    _s("bug", r"^kernel BUG at ", "kernel BUG"),
    _s("oops", r"^(?:Internal error: )?Oops(?: - |: )(?P<what>[A-Za-z][A-Za-z ]+)?", "Oops {what}"),
    _s(
        "oops",
        r"^(?:divide error|invalid opcode|double fault|stack segment|traps: PANIC: double fault)\b",
        "Oops",
    ),
    _s("lockdep", rf"^(?:WARNING: |\[ BUG: |INFO: )(?P<what>{_LOCKDEP})", "lockdep: {what}", "task"),
    _s("lockdep", r"^WARNING: .+/\d+ still has locks held!", "lockdep: task still has locks held", "task"),
    _s("warn", rf"^WARNING: .*?{FUNC}", "WARNING"),
    _s("warn", r"^WARNING: (?:CPU: \d+ PID: \d+ at |at 0x|[\w./-]+\.[chS]:\d+ at )", "WARNING"),
    _s(
        "sleeping",
        r"^BUG: sleeping function called from invalid",
        "sleeping function in atomic context",
        "task",
    ),
    _s("sleeping", r"^BUG: scheduling while atomic", "scheduling while atomic", "task"),
    _s("soft-lockup", r"^(?:watchdog: )?BUG: soft lockup - CPU#\d+ stuck", "soft lockup", "task"),
    _s("workqueue-stall", r"^BUG: workqueue lockup", "workqueue lockup", "line", "note"),
    _s("hard-lockup", r"Watchdog detected hard LOCKUP", "hard lockup", "task"),
    _s(
        "rcu-stall",
        r"^rcu: INFO: \S+ (?:self-detected|detected(?: expedited)?) stalls? on CPU",
        "RCU stall",
        "task",
    ),
    _s(
        "hung-task", r"^INFO: task .+:\d+ (?:<\S+> )?blocked.* for more than \d+ seconds", "task hung", "task"
    ),
    _s("slub", r"^BUG (?P<cache>[\w-]+) \(.*\): (?P<what>.+)", "slab {cache}: {what}", "task"),
    _s("bug", r"^BUG: (?P<what>Bad page \w+|[\w -]{4,60})", "BUG: {what}", "task"),
    _s("kmemleak", r"^kmemleak: \d+ new suspected memory leaks", "kmemleak: new suspects", "line", "note"),
    _s(
        "iommu-fault",
        rf"^DMAR: \[(?P<what>DMA Read|DMA Write|INTR-REMAP)[^\]]*\] Request device \[(?P<bdf>{_BDF})\]"
        r".*\[fault reason (?P<code>\w+)\] ?(?P<why>.*)",
        "DMAR: {what} fault: {why}",
        "line",
    ),
    _s(
        "iommu-fault",
        rf"^(?:\S+ )?(?P<bdf>{_BDF})?(?:: )?AMD-Vi: Event logged \[(?P<what>[A-Z_]+)"
        rf"(?: device=(?P<bdf2>{_BDF}))?",
        "AMD-Vi: {what}",
        "line",
    ),
    _s(
        "iommu-fault",
        rf"^arm-smmu-v3 \S+: event: (?P<what>\w+) client: (?P<bdf>{_BDF})?",
        "SMMUv3: {what}",
        "line",
    ),
    _s("iommu-fault", r"^arm-smmu-v3 \S+: event (?P<code>0x[0-9a-f]{2}) received:", "SMMUv3: event", "line"),
    _s("iommu-fault", r"^arm-smmu \S+: Unhandled context fault", "SMMU: context fault", "line"),
    _s(
        "iommu-fault", r"^virtio_iommu \S+: (?P<what>\w+) fault from EP", "virtio-iommu: {what} fault", "line"
    ),
    _s(
        "aer",
        rf"^\S+ (?P<bdf>{_BDF}): PCIe Bus Error: severity=(?P<what>[^,]+), type=(?P<why>[^,]+)",
        "AER: {what}, {why}",
        "line",
        "note",
    ),
    _s("machine-check", r"^(?:mce: )?(?:\{\d+\})?\[Hardware Error\]: ", "machine check", "line", "note"),
    _s(
        "oom",
        r"^(?:Out of memory|Memory cgroup out of memory): Killed process",
        "out of memory",
        "line",
        "note",
    ),
    _s("panic", r"^Kernel panic - not syncing: (?P<what>[^:]+)", "kernel panic: {what}"),
)
