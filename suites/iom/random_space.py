# SPDX-License-Identifier: Apache-2.0
"""Random programs on an address space, the same for every backend; the model knows the right results.

Addresses come from a small window, so that maps meet each other; now and then one comes from the edges of the
range or of 64 bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from suites.iom.program import FIRST, PAGE, RW, Core

__all__ = ["Backend", "CompatBackend", "NativeBackend", "random_space"]

_STEPS = 30
_WINDOW_PAGES = 64
_MEMORY_PAGES = 32
_TOP = 1 << 64


class Backend(Protocol):
    """One way to map memory; `core` has the memory `m` of 32 pages.

    Guarantees: after `open` the model knows the space's ranges and alignment, and they do not change.
    """

    copies: bool
    chooses: bool
    """Whether it can choose an address itself."""
    top: bool
    """Whether the last page below 2^64 can be mapped like any other."""

    def open(self, core: Core) -> None:
        """Append making the space."""

    def map(self, core: Core, iova: int | None, length: int, off: int, flags: int) -> int:
        """Append a map."""

    def unmap(self, core: Core, iova: int, length: int) -> int:
        """Append an unmap."""

    def unmap_all(self, core: Core) -> int:
        """Append an unmap of everything."""


class NativeBackend:
    """An IOAS; `attach` attaches a device to it; with `access` its mappings are also read and written."""

    copies = chooses = top = True

    def __init__(self, attach: Callable[[Core], object] | None, access: bool) -> None:
        self._attach, self._access = attach, access

    def open(self, core: Core) -> None:
        """Append making the space, and a second IOAS `b` for copies."""
        core.ioas("b")
        if self._attach is not None:
            self._attach(core)
        if self._access:
            core.access("acc")
        core.ranges()
        core.ranges("b")

    def map(self, core: Core, iova: int | None, length: int, off: int, flags: int) -> int:
        """Append a map."""
        return core.map(iova, length, off=off, flags=flags)

    def unmap(self, core: Core, iova: int, length: int) -> int:
        """Append an unmap."""
        return core.unmap(iova, length)

    def unmap_all(self, core: Core) -> int:
        """Append an unmap of everything."""
        return core.unmap(0, _TOP - 1)

    def access(self, core: Core, iova: int, length: int, data: str) -> None:
        """Append a read or write through the IOVA, if there is an access object."""
        if self._access:
            core.rw("acc", iova, length, data)


class CompatBackend:
    """An iommufd used with the ioctls of type1, on the IOAS that IOMMU_VFIO_IOAS has set."""

    copies = chooses = False
    top = True

    def __init__(self, attach: Callable[[Core], object] | None) -> None:
        self._attach = attach

    def open(self, core: Core) -> None:
        """Append making the space."""
        if self._attach is not None:
            self._attach(core)
        core.io("IOMMU_VFIO_IOAS", {"ioas_id": "a", "op": 1})
        core.io("VFIO_IOMMU_GET_INFO", {"argsz": 4096})

    def map(self, core: Core, iova: int | None, length: int, off: int, flags: int) -> int:
        """Append a map."""
        legacy = flags >> 2 & 1 | flags & 2
        fields = {"flags": legacy, "iova": iova or 0, "size": length}
        return core.io("VFIO_IOMMU_MAP_DMA", fields, mems={"vaddr": ["m", off]})

    def unmap(self, core: Core, iova: int, length: int) -> int:
        """Append an unmap."""
        return core.io("VFIO_IOMMU_UNMAP_DMA", {"argsz": 24, "iova": iova, "size": length})

    def unmap_all(self, core: Core) -> int:
        """Append an unmap of everything."""
        return core.io("VFIO_IOMMU_UNMAP_DMA", {"argsz": 24, "flags": 2})


def random_space(backend: Backend, core: Core, rng: random.Random) -> Core:
    """Append a random program; returns `core`."""
    core.memory(pages=_MEMORY_PAGES)
    backend.open(core)
    placed: list[tuple[int, int]] = []  # what is probably mapped, so that most unmaps match
    for _ in range(_STEPS):
        choice = rng.random()
        if choice < 0.45 or not placed:
            _map(backend, core, rng, placed)
        elif choice < 0.7:
            _unmap(backend, core, rng, placed)
        elif choice < 0.95:
            _use(backend, core, rng, placed)
        elif choice < 0.98:
            backend.unmap_all(core)
            placed.clear()
    backend.unmap_all(core)
    return core


def _map(backend: Backend, core: Core, rng: random.Random, placed: list[tuple[int, int]]) -> None:
    pages = rng.choice((1, 1, 2, 3, 5, 8))
    off = rng.randrange(_MEMORY_PAGES - pages + 1) * PAGE
    flags = rng.choice((RW, RW, RW, 4, 2))
    edge = rng.random()
    if edge < 0.1 and backend.chooses:
        backend.map(core, None, pages * PAGE, off, flags)
    elif edge < 0.2:
        last = _TOP - (pages if backend.top else pages + 1) * PAGE
        iova = rng.choice((0, FIRST - PAGE, (1 << 31) - PAGE, (1 << 39) - PAGE, 1 << 48, last))
        backend.map(core, iova, pages * PAGE, off, flags)
    else:
        iova = FIRST + rng.randrange(_WINDOW_PAGES) * PAGE
        backend.map(core, iova, pages * PAGE, off, flags)
        placed.append((iova, pages * PAGE))


def _unmap(backend: Backend, core: Core, rng: random.Random, placed: list[tuple[int, int]]) -> None:
    iova, length = rng.choice(placed)
    kind = rng.random()
    if kind < 0.6:
        backend.unmap(core, iova, length)
    elif kind < 0.8:
        first = max(FIRST, iova - rng.randrange(4) * PAGE)
        backend.unmap(core, first, iova + length - first + rng.randrange(4) * PAGE)
    elif length > PAGE:
        cut = rng.randrange(1, length // PAGE) * PAGE
        backend.unmap(core, *((iova + cut, length - cut) if rng.random() < 0.5 else (iova, cut)))
    else:
        backend.unmap(core, iova + (1 << 30) // 2, PAGE)


def _use(backend: Backend, core: Core, rng: random.Random, placed: list[tuple[int, int]]) -> None:
    iova, length = rng.choice(placed)
    if isinstance(backend, NativeBackend) and rng.random() < 0.7:
        start = rng.randrange(length)
        count = rng.randint(1, min(3 * PAGE, length - start + (PAGE if rng.random() < 0.2 else 0)))
        data = rng.randbytes(min(count, 64)).hex() if rng.random() < 0.4 else ""
        backend.access(core, iova + start, len(data) // 2 or count, data)
    elif backend.copies:
        target = FIRST + rng.randrange(_WINDOW_PAGES) * PAGE
        to = rng.choice(("a", "b"))
        core.copy(iova, length, target if rng.random() < 0.8 else None, to=to)
        if to == "a":
            placed.append((target, length))
