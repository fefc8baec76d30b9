# SPDX-License-Identifier: Apache-2.0
"""Experiments on options, the accounting of pinned memory, and iommufds in other processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd
from suites.iom.program import FIRST, PAGE, RW_FIXED, Core

_GET, _SET = iommufd.IOMMU_OPTION_OP_GET, iommufd.IOMMU_OPTION_OP_SET
_HUGE, _RLIMIT = iommufd.IOMMU_OPTION_HUGE_PAGES, iommufd.IOMMU_OPTION_RLIMIT_MODE
_TOP = (1 << 64) - 1
_CAP_IPC_LOCK = 14


def _option(core: Core, option: int, op: int, value: int = 0, thing: str | int = 0) -> int:
    return core.io("IOMMU_OPTION", {"option_id": option, "op": op, "object_id": thing, "val64": value})


@experiment("IOM-070", "IOM-071", "IOM-072", "IOM-073", needs=("mock",), own_open=True)
def options_have_the_values_of_the_text(subject: Subject) -> Iterator[Script]:
    """Verify: defaults, allowed values, and when an option can be changed."""
    core = Core(ioas=False)
    core.is_("IOM-071", _option(core, _RLIMIT, _GET), "val64", 0, "by user is the default")
    core.ok("IOM-071", _option(core, _RLIMIT, _SET, 1), "by process")
    core.is_("IOM-071", _option(core, _RLIMIT, _GET), "val64", 1, "it is by process")
    core.refused("IOM-073", _option(core, _RLIMIT, _SET, 2), "there is no such value", errno.EINVAL)
    core.refused("IOM-073", _option(core, _RLIMIT, 7), "there is no such operation", errno.EOPNOTSUPP)
    core.refused("IOM-073", _option(core, 9, _GET), "there is no such option", errno.EOPNOTSUPP)
    core.ioas("a")
    core.ioas("b")
    core.refused("IOM-072", _option(core, _RLIMIT, _SET, 0), "there are objects", errno.EBUSY)
    core.refused("IOM-071", _option(core, _RLIMIT, _GET, thing="a"), "it is not an object's option")
    core.is_("IOM-070", _option(core, _HUGE, _GET, thing="a"), "val64", 1, "on is the default")
    core.ok("IOM-070", _option(core, _HUGE, _SET, 0, "a"), "they are switched off")
    core.is_("IOM-070", _option(core, _HUGE, _GET, thing="a"), "val64", 0, "they are off")
    core.is_("IOM-070", _option(core, _HUGE, _GET, thing="b"), "val64", 1, "those of the other IOAS are on")
    core.mock()
    core.memory()
    core.map(FIRST, 16 * PAGE)
    core.ok("IOM-070", core.check_map("hw", FIRST, 16 * PAGE), "what is mapped is there without them")
    core.ok("IOM-070", _option(core, _HUGE, _SET, 1, "a"), "they are switched on")
    core.is_("IOM-070", _option(core, _HUGE, _GET, thing="a"), "val64", 1, "they are on")
    core.refused("IOM-073", _option(core, _HUGE, _SET, 5, "a"), "there is no such value", errno.EINVAL)
    core.refused("IOM-073", _option(core, _HUGE, 9, 0, "a"), "there is no such operation", errno.EOPNOTSUPP)
    yield core.script


@experiment("IOM-080", "IOM-081", own_open=True)
def pinned_memory_is_counted_once(subject: Subject) -> Iterator[Script]:
    """Steps: map, copy, unmap one of the two, unmap all, close.  Verify: VmPin counts each page once."""
    if not subject.has("physical_iommu"):
        return
    core = Core()
    script = core.script
    core.ioas("b")
    if subject.has("mock"):
        core.mock()
        core.mock("2", "b")
    else:
        core.device(attach=False)
        core.hwpt("h", "a")
        core.hwpt("h2", "b")
    core.memory()
    before = script.op("pinned_memory")
    core.map(FIRST, 16 * PAGE)
    mapped = script.op("pinned_memory")
    script.exceeds("IOM-080", mapped, "pinned_kib", Script.ref(before, "pinned_kib"), "it is counted")
    core.copy(FIRST, 16 * PAGE, FIRST)
    copied = script.op("pinned_memory")
    script.equals("IOM-080", copied, "pinned_kib", Script.ref(mapped, "pinned_kib"), "it is counted once")
    core.unmap(FIRST, 16 * PAGE)
    half = script.op("pinned_memory")
    script.equals("IOM-080", half, "pinned_kib", Script.ref(mapped, "pinned_kib"), "it is still mapped")
    core.unmap(0, _TOP, "b")
    none = script.op("pinned_memory")
    script.equals("IOM-081", none, "pinned_kib", Script.ref(before, "pinned_kib"), "it is not counted")
    core.map(FIRST, 4 * PAGE)
    core.map(FIRST + (1 << 20), 4 * PAGE, off=8 * PAGE)
    if not subject.has("mock"):
        script.op("close", fd="x")
    script.op("close", fd="f")
    left = script.op("pinned_memory")
    script.equals("IOM-081", left, "pinned_kib", Script.ref(before, "pinned_kib"), "it is not counted")
    yield script


@experiment("IOM-082", needs=("mock",), own_open=True)
def the_limit_of_pinned_memory_holds(subject: Subject) -> Iterator[Script]:
    """Steps: map with a small RLIMIT_MEMLOCK and no CAP_IPC_LOCK, under both ways of accounting."""
    for mode in (0, 1):
        core = Core(ioas=False)
        if mode:
            _option(core, _RLIMIT, _SET, 1)
        core.ioas("a")
        core.mock()
        _fork(core, "p")
        _in(core, "p", "rlimit_memlock", bytes=8 * PAGE)
        _in(core, "p", "mmap", out="m", n=16 * PAGE)
        limited = _in_map(core, FIRST, 16 * PAGE)
        core.refused("IOM-082", limited, "it is more than may be locked", errno.ENOMEM)
        some = _in_map(core, FIRST, 4 * PAGE)
        core.ok("IOM-082", some, "it is less than may be locked")
        yield core.script


def _fork(core: Core, name: str, *, privileged: bool = False) -> None:
    core.script.op("fork", actor=name)
    if not privileged:
        _in(core, name, "drop_capability", caps=[_CAP_IPC_LOCK])


def _in(core: Core, actor: str, name: str, /, **args: object) -> int:
    """Append an operation in another process."""
    return core.script.op("act", actor=actor, do=[name, args])


def _in_map(core: Core, iova: int, length: int, ioas: str = "a") -> int:
    fields = {"flags": RW_FIXED, "ioas_id": ioas, "length": length, "iova": iova}
    return _in(core, "p", "iommu", fd="f", cmd="IOMMU_IOAS_MAP", set=fields, mems={"user_va": ["m", 0]})


@experiment("IOM-085", needs=("mock",), own_open=True)
def an_iommufd_in_another_process(subject: Subject) -> Iterator[Script]:
    """Steps: pass it by SCM_RIGHTS.  Verify: that process maps its own memory, which outlives the process."""
    core = Core()
    script = core.script
    core.mock()
    core.access("acc")
    script.op("socketpair", out=["s1", "s2"])
    script.op("fork", actor="p")
    _in(core, "p", "close", fd="f")
    script.op("send_fd", sock="s1", fd="f")
    _in(core, "p", "recv_fd", sock="s2", out="f", timeout_ms=5000)
    _in(core, "p", "mmap", out="m", n=4 * PAGE, flags=["PRIVATE", "ANONYMOUS"])
    _in(core, "p", "mem_write", mem="m", off=0, hex="c0ffee00" * 4)
    core.ok("IOM-085", _in_map(core, FIRST, 4 * PAGE, "a"), "it maps its memory")
    mine = core.rw("acc", FIRST, 16)
    core.is_("IOM-085", mine, "buf_uptr", "c0ffee00" * 4, "what is there is that process's memory")
    core.rw("acc", FIRST, 4, "0badcafe")
    seen = _in(core, "p", "mem_read", mem="m", off=0, n=4)
    core.is_("IOM-085", seen, "hex", "0badcafe", "that process sees what is written")
    script.op("kill", actor="p")
    script.op("wait", actor="p", timeout_ms=5000)
    core.ok("IOM-085", core.unmap(FIRST, 4 * PAGE), "it is unmapped after that process has ended")
    yield script


@experiment("IOM-075", needs=("mock",), own_open=True)
def memory_mapped_by_its_address_keeps_its_process(subject: Subject) -> Iterator[Script]:
    """Steps: CHANGE_PROCESS with nothing mapped, and with a mapping that is not of a file."""
    if not subject.has("change_process"):
        return
    core = Core()
    core.mock()
    core.memory()
    core.ok("IOM-075", core.io("IOMMU_IOAS_CHANGE_PROCESS"), "nothing is mapped")
    core.map(FIRST, PAGE)
    index = core.io("IOMMU_IOAS_CHANGE_PROCESS")
    core.refused("IOM-075", index, "memory is mapped by its address", errno.EINVAL)
    core.unmap(FIRST, PAGE)
    core.ok("IOM-075", core.io("IOMMU_IOAS_CHANGE_PROCESS"), "nothing is mapped any more")
    yield core.script


@experiment("IOM-076", "IOM-077", needs=("mock",), own_open=True)
def pinned_memory_moves_with_the_process(subject: Subject) -> Iterator[Script]:
    """Steps: CHANGE_PROCESS by a second process, with and without CAP_IPC_LOCK, both ways of accounting."""
    if not subject.has("change_process"):
        return
    for privileged in (False, True):
        for mode in (0, 1):
            yield _taken_over(privileged, mode)
    core = Core()
    core.mock()
    core.script.op("memfd", out="file", size=16 * PAGE)
    _fork(core, "p")
    _fork(core, "q")
    _file_map(core)
    held = _in(core, "p", "pinned_memory")
    _in(core, "q", "rlimit_memlock", bytes=4 * PAGE)
    index = _in(core, "q", "iommu", fd="f", cmd="IOMMU_IOAS_CHANGE_PROCESS")
    core.refused("IOM-076", index, "it is more than may be locked there", errno.ENOMEM)
    now = _in(core, "p", "pinned_memory")
    core.script.equals("IOM-076", now, "pinned_kib", Script.ref(held, "pinned_kib"), "nothing has changed")
    yield core.script


def _file_map(core: Core) -> int:
    fields = {"flags": RW_FIXED, "ioas_id": "a", "length": 16 * PAGE, "iova": FIRST}
    return _in(core, "p", "iommu", fd="f", cmd="IOMMU_IOAS_MAP_FILE", set=fields, fds={"fd": "file"})


def _taken_over(privileged: bool, mode: int) -> Script:
    clause = "IOM-077" if privileged else "IOM-076"
    core = Core(ioas=False)
    script = core.script
    if mode:
        _option(core, _RLIMIT, _SET, 1)
    core.ioas("a")
    core.mock()
    script.op("memfd", out="file", size=16 * PAGE)
    for name in ("p", "q"):
        _fork(core, name, privileged=privileged)
    first, second = _in(core, "p", "pinned_memory"), _in(core, "q", "pinned_memory")
    _file_map(core)
    held = _in(core, "p", "pinned_memory")
    moved = _in(core, "q", "iommu", fd="f", cmd="IOMMU_IOAS_CHANGE_PROCESS")
    core.ok(clause, moved, "only files are mapped")
    left, now = _in(core, "p", "pinned_memory"), _in(core, "q", "pinned_memory")
    some = [(held, "pinned_kib", ">", Script.ref(first, "pinned_kib")), (moved, "errno", "==", 0)]
    old, new = Script.ref(first, "pinned_kib"), Script.ref(second, "pinned_kib")
    script.equals(clause, left, "pinned_kib", old, "the first process has none any more").when(*some)
    script.exceeds(clause, now, "pinned_kib", new, "the second process has it").when(*some)
    core.unmap(0, _TOP)
    after = _in(core, "q", "pinned_memory")
    script.equals(clause, after, "pinned_kib", new, "nobody has it when it is unmapped").when(*some)
    return script
