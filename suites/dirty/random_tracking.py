# SPDX-License-Identifier: Apache-2.0
"""Random programs of maps, unmaps, writes, reports and switches of tracking."""

from __future__ import annotations

import random

from harness.program.script import Script
from suites.dirty.tracked_table import MEMORY_BYTES, MockDirtier, TrackedTable

__all__ = ["random_tracking"]

_STEPS = 24
_SLOT = 1 << 17
_SLOTS = 12
_PAGES = (2048, 4096, 4096, 4096, 8192, 65536)


def random_tracking(rng: random.Random) -> Script:
    """A program of `_STEPS` steps; half of the programs use entries of one page, where a bit is one page."""
    table = TrackedTable(MockDirtier(), huge=rng.random() < 0.5)
    mapped: dict[int, int] = {}  # offset -> length
    for _ in range(_STEPS):
        choice = rng.random()
        if choice < 0.2 or not mapped:
            _map(table, mapped, rng)
        elif choice < 0.27:
            offset = rng.choice(sorted(mapped))
            table.unmap(offset, mapped.pop(offset))
        elif choice < 0.6:
            offset = rng.choice(sorted(mapped))
            places = [rng.randrange(0, mapped[offset], 2048) for _ in range(rng.randint(1, 6))]
            table.write(*(offset + place for place in places))
        elif choice < 0.97:
            _report(table, mapped, rng)
        else:
            table.track(False)
            table.track(True)
    for offset, length in sorted(mapped.items()):
        table.report(offset, length)
    return table.script


def _map(table: TrackedTable, mapped: dict[int, int], rng: random.Random) -> None:
    free = [slot * _SLOT for slot in range(_SLOTS) if not _taken(mapped, slot * _SLOT)]
    if not free:
        return
    offset, length = rng.choice(free), 4096 * rng.choice((1, 1, 2, 3, 7, 16, 31, 32))
    place = rng.randrange(0, MEMORY_BYTES - length + 1, 4096)
    if rng.random() < 0.3:
        offset += rng.randrange(0, _SLOT - length + 1, 4096)
    table.map(offset, length, place)
    mapped[offset] = length


def _taken(mapped: dict[int, int], slot: int) -> bool:
    return any(offset // _SLOT * _SLOT == slot for offset in mapped)


def _report(table: TrackedTable, mapped: dict[int, int], rng: random.Random) -> None:
    """Report all or a part of a mapping; parts at the smallest page size have their own experiment."""
    offset = rng.choice(sorted(mapped))
    page, length = rng.choice(_PAGES), mapped[offset]
    page = max(p for p in _PAGES if p <= page and not offset % p and not length % p)
    if rng.random() < 0.4:
        page = max(page, 4096)
        first = rng.randrange(0, length, page)
        offset, length = offset + first, page * rng.randint(1, (length - first) // page)
    count = length // page
    preset = rng.randbytes((count + 7) // 8).hex() if rng.random() < 0.2 else ""
    at = rng.choice((0, 0, 8, 4088))
    table.report(offset, length, page, keep=rng.random() < 0.5, preset=preset, at=at)
