# SPDX-License-Identifier: Apache-2.0
"""Experiments on interrupts: what SET_IRQS accepts, loopback, and the device's own INTx and MSI."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from suites.dev.program import CONFIG, INTX, MSI, MSIX, Bench

_DATA = {"none": 1, "bool": 2, "eventfd": 4}
_ACTION = {"mask": 8, "unmask": 16, "trigger": 32}
_HEAD = 20
_COMMAND, _MEMORY, _INTX_OFF = 0x04, 0x0002, 0x0400
_CLOSED_FD = 1_000_000
_LARGE = 0x40000000


def _counts(subject: Subject) -> dict[int, int]:
    """Number of interrupts of each index that has some and signals by eventfd."""
    if not subject.has("pci_api"):
        return {}
    names = {INTX: "irq_intx", MSI: "irq_msi", MSIX: "irq_msix"}
    flags = {int(i["index"]): int(i["flags"]) for i in subject.capabilities["irqs"]}
    return {
        index: int(subject.capabilities[name])
        for index, name in names.items()
        if subject.capabilities.get(name) and flags.get(index, 0) & 1
    }


@experiment(
    "DEV-064", "DEV-065", "DEV-066", "DEV-067", "DEV-068", "DEV-069", "DEV-070", "DEV-071", "DEV-075",
    "DEV-078", "DEV-081", own_open=True,
)  # fmt: skip
def set_irqs_checks_its_struct(subject: Subject) -> Iterator[Bench]:
    if not _counts(subject):
        b = Bench(subject)
        _beyond(b, int(subject.capabilities["num_irqs"]))
        yield b
    for index, count in _counts(subject).items():
        for enabled in (False, True):
            b = Bench(subject)
            b.eventfd("e")
            b.op("open", path="/dev/null", out="null")
            if enabled:
                b.succeeds("DEV-071", b.trigger_fds(index, 0, ["e"]), f"an eventfd for index {index}")
            _malformed(b, index, count)
            if not enabled:
                for fd in ("null", _CLOSED_FD):
                    b.is_refused("DEV-070", b.trigger_fds(index, 0, [fd]), expected=f"{fd} is no eventfd")
                if index == INTX:
                    b.is_refused("DEV-081", b.mask(), expected="MASK before the index is enabled")
                    b.is_refused("DEV-081", b.unmask(), expected="UNMASK before the index is enabled")
            if index != INTX and not _flags(subject, index) & 2:
                b.is_refused("DEV-078", b.mask(index), expected=f"MASK of index {index}")
                b.is_refused("DEV-078", b.unmask(index), expected=f"UNMASK of index {index}")
            b.alive("DEV-064", "after refused requests")
            if enabled:
                b.succeeds("DEV-075", b.disable(index), f"index {index} can be disabled")
            yield b


def _flags(subject: Subject, index: int) -> int:
    return next((int(i["flags"]) for i in subject.capabilities["irqs"] if i["index"] == index), 0)


def _malformed(b: Bench, index: int, count: int) -> None:
    far = int(b.subject.capabilities["num_irqs"])
    trigger = _DATA["none"] | _ACTION["trigger"]
    for argsz in (0, 4, 16, _HEAD - 1):
        b.is_refused("DEV-064", b.irqs(trigger, index, 0, 1, argsz=argsz), expected=f"argsz {argsz}")
    b.is_refused(
        "DEV-064", b.irqs(_DATA["bool"] | 32, index, 0, 1, argsz=_HEAD), expected="no room for a bool"
    )
    b.is_refused(
        "DEV-064", b.irqs(_DATA["eventfd"] | 32, index, 0, 1, argsz=_HEAD + 3), expected="no room for an fd"
    )
    _beyond(b, far)
    for bit in range(6, 32):
        b.is_refused("DEV-066", b.irqs(trigger | 1 << bit, index, 0, 1), expected=f"flag {1 << bit:#x}")
    fd = {"fds": ["e"]}
    for action in _ACTION.values():
        for data in (0, 3, 5, 6, 7):
            b.is_refused(
                "DEV-067", b.irqs(data | action, index, 0, 1, **fd), expected=f"flags {data | action:#x}"
            )
    for data in _DATA.values():
        for action in (0, 8 | 16, 8 | 32, 16 | 32, 8 | 16 | 32):
            b.is_refused(
                "DEV-068", b.irqs(data | action, index, 0, 1, **fd), expected=f"flags {data | action:#x}"
            )
    for start, number in ((count, 1), (0, count + 1), (count + 5, 1), (0xFFFFFFFF, 1), (0xFFFFFFFF, 2),
                          (1, 0xFFFFFFFF), (0, 0xFFFFFFFF), (_LARGE, 0xC0000000)):  # fmt: skip
        b.is_refused(
            "DEV-069", b.irqs(trigger, index, start, number), expected=f"{number} from {start} of {count}"
        )


def _beyond(b: Bench, far: int) -> None:
    for other in (far, far + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        b.is_refused(
            "DEV-065", b.irqs(_DATA["none"] | _ACTION["trigger"], other, 0, 1), expected=f"index {other}"
        )


@experiment("DEV-071", "DEV-072", "DEV-073", "DEV-074", "DEV-075", "DEV-076", "DEV-077", own_open=True)
def every_vector_can_be_triggered_by_software(subject: Subject) -> Iterator[Bench]:
    for index, count in _counts(subject).items():
        b = Bench(subject)
        used = min(count, 8)
        names = [b.eventfd(f"e{n}") for n in range(used)]
        b.succeeds("DEV-071", b.trigger_fds(index, 0, names), f"eventfds for {used} of index {index}")
        for n in range(used):
            b.succeeds("DEV-072", b.loopback(index, n, 1), f"loopback of {n}")
            for other in range(used):
                if other == n:
                    b.signalled("DEV-072", names[n], f"{n} is signalled")
                else:
                    b.silent("DEV-072", names[other], f"{other} is not signalled")
            if index == INTX:
                b.unmask()
        b.succeeds("DEV-073", b.loopback_some(index, 0, [n % 2 for n in range(used)]), "loopback by bools")
        for n in range(used):
            if n % 2:
                b.signalled("DEV-073", names[n], f"{n} is marked and signalled")
            else:
                b.silent("DEV-073", names[n], f"{n} is not marked and not signalled")
        b.succeeds("DEV-073", b.loopback_some(index, 0, [1]), "loopback by bool")
        b.signalled("DEV-073", names[0], "the first is signalled")
        if index == INTX:
            b.unmask()
        b.op("close", fd=names[0])
        b.succeeds("DEV-077", b.loopback(index, 0, 1), "loopback after the eventfd's fd was closed")
        b.eventfd("new")
        b.succeeds("DEV-076", b.trigger_fds(index, 0, ["new"]), "another eventfd in its stead")
        if index == INTX:
            b.unmask()
        b.loopback(index, 0, 1)
        b.signalled("DEV-076", "new", "the new one is signalled")
        yield b
        yield _taken_away(subject, index, used)


def _taken_away(subject: Subject, index: int, used: int) -> Bench:
    b = Bench(subject)
    names = [b.eventfd(f"e{n}") for n in range(used)]
    b.trigger_fds(index, 0, names)
    last = used - 1
    b.succeeds("DEV-074", b.trigger_fds(index, last, [-1]), f"-1 for {last}")
    b.loopback(index, last, 1)
    b.silent("DEV-074", names[last], f"{last} is not signalled any more")
    if used > 1:
        b.succeeds("DEV-074", b.loopback(index, 0, 1), "the others stay")
        b.signalled("DEV-074", names[0], "the first is signalled")
    b.succeeds("DEV-071", b.trigger_fds(index, last, [names[last]]), f"an eventfd for {last} again")
    if index == INTX:
        b.unmask()
    b.loopback(index, last, 1)
    b.signalled("DEV-071", names[last], f"{last} is signalled again")
    b.succeeds("DEV-075", b.disable(index), f"index {index} is disabled")
    b.loopback(index, 0, 1)
    b.silent("DEV-075", names[0], "nothing is signalled by a disabled index")
    b.succeeds("DEV-075", b.trigger_fds(index, 0, [names[0]]), f"index {index} is enabled again")
    b.loopback(index, 0, 1)
    b.signalled("DEV-075", names[0], "the first is signalled again")
    b.disable(index)
    return b


@experiment("DEV-070", "DEV-071", "DEV-072", "DEV-073", "DEV-074", "DEV-075", own_open=True)
def one_index_follows_another(subject: Subject) -> Iterator[Bench]:
    b = Bench(subject)
    b.eventfd("e")
    counts = _counts(subject)
    for _ in range(2):
        for index in counts:
            b.succeeds("DEV-071", b.trigger_fds(index, 0, ["e"]), f"index {index} after another")
            b.loopback(index, 0, 1)
            b.signalled("DEV-072", "e", f"index {index} is signalled")
            for other in counts:
                if other != index:
                    b.trigger_fds(other, 0, ["e"])
            b.succeeds("DEV-075", b.disable(index), f"index {index} is disabled")
            for other in counts:
                b.disable(other)
    if counts:
        yield b
    for index in (3, 4):
        if _flags(subject, index) & 1:
            b = Bench(subject)
            b.eventfd("e")
            b.succeeds("DEV-071", b.trigger_fds(index, 0, ["e"]), f"an eventfd for index {index}")
            b.succeeds("DEV-072", b.loopback(index, 0, 1), f"loopback of index {index}")
            b.signalled("DEV-072", "e", f"index {index} is signalled")
            b.succeeds("DEV-073", b.loopback_some(index, 0, [1]), f"loopback of index {index} by bool")
            b.signalled("DEV-073", "e", f"index {index} is signalled")
            b.loopback_some(index, 0, [0])
            b.silent("DEV-073", "e", "an unmarked one is not signalled")
            b.is_refused("DEV-070", b.trigger_fds(index, 0, [_CLOSED_FD]), expected="it is no eventfd")
            b.succeeds("DEV-074", b.trigger_fds(index, 0, [-1]), f"-1 for index {index}")
            b.loopback(index, 0, 1)
            b.silent("DEV-074", "e", "it is not signalled any more")
            b.trigger_fds(index, 0, ["e"])
            b.succeeds("DEV-075", b.disable(index), f"index {index} is disabled")
            yield b


@experiment("DEV-070", "DEV-071", "DEV-072", "DEV-074", "DEV-075", own_open=True)
def a_vector_of_many_can_be_set_and_reset(subject: Subject) -> Iterator[Bench]:
    for index, count in _counts(subject).items():
        if count < 2 or index == INTX:
            continue
        b = Bench(subject)
        b.eventfd("a")
        b.eventfd("b")
        b.succeeds("DEV-071", b.trigger_fds(index, 0, ["a", -1]), "an eventfd and a gap")
        b.loopback(index, 0, 2)
        b.signalled("DEV-072", "a", "the first is signalled")
        b.succeeds("DEV-071", b.trigger_fds(index, 1, ["b"]), "an eventfd for the gap")
        b.loopback(index, 1, 1)
        b.signalled("DEV-072", "b", "the second is signalled")
        b.silent("DEV-072", "a", "the first is not")
        b.is_refused(
            "DEV-070", b.trigger_fds(index, 0, ["a", _CLOSED_FD]), expected="one of two is no eventfd"
        )
        b.succeeds("DEV-075", b.disable(index), "the index is disabled all the same")
        b.succeeds("DEV-071", b.trigger_fds(index, 0, ["a"] * min(count, 16)), "one eventfd for all")
        b.loopback(index, min(count, 16) - 1, 1)
        b.signalled("DEV-072", "a", "the last signals it")
        yield b


@experiment("DEV-079", "DEV-080", own_open=True)
def a_line_can_be_masked(subject: Subject) -> Iterator[Bench]:
    if INTX not in _counts(subject) or not _flags(subject, INTX) & 2:
        return
    b = Bench(subject)
    b.eventfd("e")
    b.trigger_fds(INTX, 0, ["e"])
    changes = ((8 | 1, None), (16 | 1, None), (8 | 2, "01"), (16 | 2, "01"), (8 | 2, "00"), (16 | 2, "00"))
    for flags, hex_ in (*changes, (16 | 1, None)):
        b.succeeds("DEV-079", b.irqs(flags, INTX, 0, 1, hex=hex_), f"flags {flags:#x}")
    for _ in range(3):
        b.succeeds("DEV-080", b.loopback(INTX, 0, 1), "loopback after UNMASK")
        b.signalled("DEV-080", "e", "it is signalled after UNMASK")
        b.succeeds("DEV-080", b.unmask(), "UNMASK")
    yield b


@experiment("DEV-085", "DEV-086", "DEV-087", "DEV-091", own_open=True)
def an_asserted_line_signals_once(subject: Subject) -> Iterator[Bench]:
    if not subject.has("intx_source"):
        return
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.eventfd("e")
    b.succeeds("DEV-085", b.trigger_fds(INTX, 0, ["e"]), "an eventfd for INTx")
    b.raises()
    b.signalled("DEV-085", "e", "the asserted line is signalled")
    b.op("sleep", ms=3)
    b.silent("DEV-085", "e", "it is masked then, and signals no more")
    b.succeeds("DEV-086", b.unmask(), "UNMASK while the line is asserted")
    b.signalled("DEV-086", "e", "it is signalled again")
    b.lowers()
    b.succeeds("DEV-086", b.unmask(), "UNMASK when it is not asserted any more")
    b.op("sleep", ms=3)
    b.silent("DEV-086", "e", "it is not signalled")
    b.succeeds("DEV-087", b.mask(), "MASK")
    b.raises()
    b.op("sleep", ms=3)
    b.silent("DEV-087", "e", "a masked line does not signal")
    b.unmask()
    b.signalled("DEV-087", "e", "UNMASK lets it through")
    b.lowers()
    b.unmask()
    b.succeeds("DEV-091", b.disable(INTX), "INTx is disabled")
    b.raises()
    b.op("sleep", ms=3)
    b.silent("DEV-091", "e", "a disabled index does not signal")
    b.lowers()
    yield b


@experiment("DEV-088", own_open=True)
def a_line_can_be_unmasked_by_an_eventfd(subject: Subject) -> Iterator[Bench]:
    if not (subject.has("intx_source") and subject.has("unmask_eventfd")):
        return
    unmask_fd = _DATA["eventfd"] | _ACTION["unmask"]
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.eventfd("e")
    b.eventfd("u")
    b.trigger_fds(INTX, 0, ["e"])
    b.succeeds("DEV-088", b.irqs(unmask_fd, INTX, 0, 1, fds=["u"]), "an eventfd for UNMASK")
    b.irqs(unmask_fd, INTX, 0, 1, fds=["u"])
    b.raises()
    b.signalled("DEV-088", "e", "the asserted line is signalled")
    for _ in range(3):
        b.op("eventfd_write", fd="u")
        b.signalled("DEV-088", "e", "the eventfd unmasks it: it is signalled again")
    b.lowers()
    b.op("eventfd_write", fd="u")
    b.op("sleep", ms=3)
    b.silent("DEV-088", "e", "not asserted, not signalled")
    b.raises()
    b.signalled("DEV-088", "e", "unmasked by the eventfd, it signals when it is asserted")
    b.succeeds("DEV-088", b.irqs(unmask_fd, INTX, 0, 1, fds=[-1]), "-1 takes the eventfd away")
    b.op("eventfd_write", fd="u")
    b.op("sleep", ms=3)
    b.silent("DEV-088", "e", "the eventfd unmasks no more")
    b.irqs(unmask_fd, INTX, 0, 1, fds=["u"])
    b.op("close", fd="u")
    b.lowers()
    yield b


@experiment("DEV-089", own_open=True)
def intx_disable_holds_the_line_back(subject: Subject) -> Iterator[Bench]:
    if not (subject.has("intx_source") and subject.has("vfio_pci")):
        return
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY | _INTX_OFF, 2)
    b.eventfd("e")
    b.trigger_fds(INTX, 0, ["e"])
    b.raises()
    b.op("sleep", ms=3)
    b.silent("DEV-089", "e", "INTx disable holds the line back")
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.signalled("DEV-089", "e", "it comes through when the bit is cleared")
    b.lowers()
    b.unmask()
    b.write(CONFIG, _COMMAND, _MEMORY | _INTX_OFF, 2)
    b.raises()
    b.op("sleep", ms=3)
    b.silent("DEV-089", "e", "the bit holds an enabled line back")
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.signalled("DEV-089", "e", "and lets it through again")
    b.lowers()
    yield b


@experiment("DEV-090", "DEV-091", own_open=True)
def messages_of_the_device_signal_their_vector(subject: Subject) -> Iterator[Bench]:
    if not subject.has("msi_source"):
        return
    counts = _counts(subject)
    for index in (MSI, MSIX):
        if index not in counts:
            continue
        b = Bench(subject)
        b.write(CONFIG, _COMMAND, _MEMORY | 4, 2)
        b.eventfd("e")
        b.succeeds("DEV-090", b.trigger_fds(index, 0, ["e"]), f"an eventfd for index {index}")
        for _ in range(4):
            b.raises()
            b.signalled("DEV-090", "e", f"an interrupt of index {index} is signalled")
            b.lowers()
        b.succeeds("DEV-091", b.disable(index), f"index {index} is disabled")
        b.op("eventfd_read", fd="e")
        b.write(CONFIG, _COMMAND, _MEMORY, 2)
        b.raises()
        b.op("sleep", ms=3)
        b.silent("DEV-091", "e", "a disabled index does not signal")
        b.lowers()
        yield b
