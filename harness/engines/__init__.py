# SPDX-License-Identifier: Apache-2.0
"""Traffic engines: make a device do DMA in such a way that the suite knows what it wrote.

An *engine* says what a device can reach and do; its *traffic* appends operations to one program.  Guarantees:

* builders are pure: they append to the script and touch nothing else;
* `write` has reached memory when the next operation of the program runs, if its record says `done`;
* each `dma` operation carries its `effect`, so that the judge needs only program and trace to know what was
  written; a command that was not `done` proves nothing, for or against the device;
* an IOVA that the engine cannot reach is refused here (HarnessError), never sent; tests check `reach` first.

Effects: `write` and `read` are over when done; `begin` is under way until a `wait` is done; `start` writes
its blocks again and again until a `stop` is done.  A block is `length` bytes; `count` blocks lie `stride`
bytes apart from `iova` on.

Intel's copy engines IOAT and DSA have no engine here.  Both take a descriptor with source, destination and
length from a ring in memory and write a completion record; a file for them would resemble `nvme.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from harness.errors import HarnessError
from harness.profiles import Mutation, StateRegion
from harness.program.script import Script

__all__ = [
    "DmaReach",
    "Engine",
    "Gift",
    "Probe",
    "Step",
    "Traffic",
    "Wake",
    "engine_for",
    "engine_names",
    "load_engine",
    "u32",
    "u64",
]

Gift = Literal[
    "read", "endless", "begin", "strided", "interrupt", "timer", "p2p-marked", "p2p-all", "bytes", "pinned"
]
"""What an engine can do beyond `write`, in the order above.

It can read memory; write until stopped; return before a write is over; write many blocks in one command;
raise an interrupt; raise it periodically; mark DMA as peer-to-peer; only do DMA that cannot be told from
peer-to-peer; begin and end a write anywhere in a page; write pages that its driver pins and keeps.
"""
Step = list[Any]


@dataclass(frozen=True)
class DmaReach:
    """Where an engine can write: from IOVA `lowest` to `highest`, the last byte, at multiples of `align`.

    A command has at most `max_blocks` blocks, each of `min_bytes` to `max_bytes` bytes.
    """

    lowest: int
    highest: int
    align: int
    max_bytes: int
    max_blocks: int = 1
    min_bytes: int = 1

    def covers(self, iova: int, length: int, count: int = 1, stride: int = 0) -> bool:
        """Whether one command can write these blocks."""
        last = iova + (count - 1) * stride + length - 1
        return (
            self.min_bytes <= length <= self.max_bytes
            and 0 < count <= self.max_blocks
            and self.lowest <= iova
            and last <= self.highest
            and iova % self.align == stride % self.align == 0
        )


@dataclass(frozen=True)
class Probe:
    """A 32-bit register that identifies the engine: it reads as `value` under `mask`."""

    region: int
    offset: int
    mask: int
    value: int


@dataclass(frozen=True)
class Wake:
    """How to check without DMA that an engine works.

    After `begin`, a device that works performs the step `alive`, a dead one the step `dead`; `end` disables
    the device again.
    """

    begin: tuple[Step, ...]
    dead: Step
    alive: Step
    end: tuple[Step, ...]


@dataclass(frozen=True)
class Engine:
    """One kind of engine.  `cost_ms` is the time of a command: it sets the size of tests, none asserts it."""

    name: str
    reach: DmaReach
    gifts: frozenset[Gift]
    traffic: Callable[..., Traffic]
    probes: tuple[Probe, ...] = ()
    pci_class: int | None = None
    pci_id: int | None = None
    """First 32 bits of config space."""
    cost_ms: float = 0.5
    irq_index: int = 1
    wake: Wake | None = None
    state_regions: tuple[StateRegion, ...] = ()
    mutate: tuple[Mutation, ...] = ()
    """Registers of such a function that are its state, and writes that change them: for a model that migrates
    one, whose driver's profile cannot know them."""

    def can(self, gift: Gift) -> bool:
        """Whether the engine has this gift."""
        return gift in self.gifts


class Traffic:
    """The operations of an engine in one program; a subclass gives the steps of each command.

    Create it at a place of the program where the device is in RUNNING and reset: the constructor appends the
    operations of `prepare`.  `map_(slot, length, iova)` and `unmap(iova, length)` map memory that the engine
    needs for itself; the default is the IOAS of slots `i` and `ioas`.
    """

    engine: Engine

    def __init__(
        self,
        script: Script,
        map_: Callable[[str, int, int], object] | None = None,
        unmap: Callable[[int, int], object] | None = None,
    ) -> None:
        self.script = script
        self._map, self._unmap = map_ or self._into_ioas, unmap or self._out_of_ioas
        self.prepare()

    def _into_ioas(self, slot: str, length: int, iova: int) -> None:
        self.script.op("ioas_map", fd="i", ioas="ioas", mem=slot, n=length, iova=iova)

    def _out_of_ioas(self, iova: int, length: int) -> None:
        self.script.op("ioas_unmap", fd="i", ioas="ioas", iova=iova, n=length)

    def prepare(self) -> None:
        """Append the operations that a device needs after a reset before it can do DMA."""

    def finish(self) -> None:
        """Append the operations that undo `prepare`; call it before memory is unmapped."""

    def write(
        self,
        iova: int,
        length: int = 4096,
        seed: int = 1,
        *,
        count: int = 1,
        stride: int = 0,
        pinned: bool = False,
    ) -> int:
        """Append a write to memory, over when it returns; returns the index of the operation."""
        return self._command("write", iova, length, seed, count, stride, pinned=pinned)

    def read(self, iova: int, length: int = 4096) -> int:
        """Append a read of memory by the device (gift `read`), over when it returns."""
        return self._command("read", iova, length, 0, 1, 0)

    def begin(
        self,
        iova: int,
        length: int = 4096,
        seed: int = 1,
        *,
        count: int = 1,
        stride: int = 0,
        delay_ms: int = 20,
        p2p: bool = False,
    ) -> int:
        """Append a write that may continue after the operation returns (gift `begin`); see `wait`."""
        return self._command("begin", iova, length, seed, count, stride, delay_ms=delay_ms, p2p=p2p)

    def wait(self) -> int:
        """Append a wait for the writes of `begin`."""
        return self.script.op("dma", fd="d", steps=self.steps("wait", {}), effect={"do": "wait"})

    def start(self, iova: int, length: int = 4096, seed: int = 1, *, p2p: bool = False) -> int:
        """Append the start of endless writes of one block (gift `endless`)."""
        return self._command("start", iova, length, seed, 1, 0, p2p=p2p)

    def stop(self) -> int:
        """Append the end of endless writes."""
        return self.script.op("dma", fd="d", steps=self.steps("stop", {}), effect={"do": "stop"})

    def arm(self, eventfd: str) -> int:
        """Append the binding of the engine's interrupt to an eventfd slot (gift `interrupt`)."""
        trigger_eventfd = (1 << 2) | (1 << 5)
        return self.script.op(
            "set_irqs", fd="d", index=self.engine.irq_index, start=0, count=1, flags=trigger_eventfd,
            fds=[eventfd],
        )  # fmt: skip

    def interrupt(self) -> int:
        """Append an operation that raises an interrupt (gift `interrupt`)."""
        return self.script.op("dma", fd="d", steps=self.steps("interrupt", {}), effect={"do": "interrupt"})

    def timer(self, period_ms: int) -> int:
        """Append the start of an interrupt every `period_ms`; 0 ends it (gift `timer`)."""
        steps = self.steps("timer", {"period_ms": period_ms})
        return self.script.op(
            "dma", fd="d", steps=steps, effect={"do": "timer" if period_ms else "timer-off"}
        )

    def command(self, what: str, iova: int, length: int = 4096, seed: int = 1, **more: Any) -> dict[str, Any]:
        """Arguments of a `dma` operation, for a program that builds its own threads."""
        return self._args(what, iova, length, seed, more.pop("count", 1), more.pop("stride", 0), **more)

    def _args(
        self, what: str, iova: int, length: int, seed: int, count: int, stride: int, **more: Any
    ) -> dict[str, Any]:
        if not self.engine.reach.covers(iova, length, count, stride):
            raise HarnessError(
                f"engine {self.engine.name}: {count} blocks of {length} bytes from iova {iova:#x} are "
                f"outside {self.engine.reach}"
            )
        place = {"iova": iova, "length": length, "count": count, "stride": stride, "seed": seed & 0xFFFFFFFF}
        steps = self.steps(what, {**place, **more})
        return {"fd": "d", "steps": steps, "effect": {"do": what, **place, "p2p": bool(more.get("p2p"))}}

    def _command(
        self, what: str, iova: int, length: int, seed: int, count: int, stride: int, **more: Any
    ) -> int:
        return self.script.op("dma", **self._args(what, iova, length, seed, count, stride, **more))

    def steps(self, what: str, args: Mapping[str, Any]) -> list[Step]:
        """Steps of the agent's `dma` operation for a command; HarnessError if the engine does not have it."""
        raise HarnessError(f"engine {self.engine.name} cannot {what}")


def u32(region: int, offset: int, value: int) -> Step:
    """A step that writes a register of 32 bits, little endian."""
    return ["reg", region, offset, (value & 0xFFFFFFFF).to_bytes(4, "little").hex()]


def u64(region: int, offset: int, value: int) -> list[Step]:
    """Steps that write a register of 64 bits as two of 32, the low one first: every bus supports that."""
    return [u32(region, offset, value), u32(region, offset + 4, value >> 32)]


_FILES = ("edu", "nvme", "reference")


def engine_names() -> tuple[str, ...]:
    """Names of all engines."""
    return tuple(importlib.import_module(f"{__name__}.{f}").ENGINE.name for f in _FILES)


@cache
def load_engine(name: str) -> Engine:
    """The engine called `name`; HarnessError with the valid names if there is none."""
    for file in _FILES:
        engine = importlib.import_module(f"{__name__}.{file}").ENGINE
        if engine.name == name and isinstance(engine, Engine):
            return engine
    raise HarnessError(f"engine {name!r} is not one of {', '.join(engine_names())}")


def engine_for(
    named: str, pci_class: int | None, pci_id: int | None, read: Callable[[int, int], int | None]
) -> str:
    """The name of the engine that a device has, '' for none.

    `named` is the engine of its profile, `pci_class` the 24 bits of its class code and `pci_id` the first 32
    bits of its config space (both None if it is not a PCI device); any of them selects an engine.  Then the
    engine's own probes decide, because a profile may be for several types of a device and not all of them do
    DMA.  `read(region, offset)` reads a 32-bit register; it returns None on failure.
    """
    engines: Sequence[Engine] = [importlib.import_module(f"{__name__}.{f}").ENGINE for f in _FILES]
    for engine in engines:
        by_class = engine.pci_class is not None and engine.pci_class == pci_class
        by_id = engine.pci_id is not None and engine.pci_id == pci_id
        if (engine.name == named or by_class or by_id) and all(_shows(p, read) for p in engine.probes):
            return engine.name
    return ""


def _shows(probe: Probe, read: Callable[[int, int], int | None]) -> bool:
    seen = read(probe.region, probe.offset)
    return seen is not None and seen & probe.mask == probe.value
