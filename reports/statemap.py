# SPDX-License-Identifier: Apache-2.0
"""Lays out the migration state diagram and the 8x8 state table from data; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.spec.arcs import DIRECT_ARCS
from reports.listing import SYMBOLS
from reports.models import STATES, ArcResult

__all__ = ["SPEC_TABLE", "ArcTable", "Box", "Cell", "Diagram", "Edge", "diagram", "state_table"]

_W, _H = 132, 44
_COLUMNS = (90, 290, 490, 690)
_ROWS = (100, 240)
# Placed so that every arc of the full table is one straight step, and saving stands above running.
_PLACES: Mapping[str, tuple[int, int]] = {
    "PRE_COPY": (0, 0), "PRE_COPY_P2P": (1, 0), "STOP_COPY": (2, 0), "ERROR": (3, 0),
    "RUNNING": (0, 1), "RUNNING_P2P": (1, 1), "STOP": (2, 1), "RESUMING": (3, 1),
}  # fmt: skip


@dataclass(frozen=True)
class ArcTable:
    """Names of the states, in the order of their values, and the arcs a driver implements itself."""

    states: tuple[str, ...]
    direct: tuple[tuple[str, str], ...]


SPEC_TABLE = ArcTable(STATES, tuple((cur.name, new.name) for cur, new in DIRECT_ARCS))
"""The arcs of a device with every optional state."""


@dataclass(frozen=True)
class Box:
    """A state: its centre, its size, and whether any request that involves it was applicable."""

    name: str
    x: float
    y: float
    width: float
    height: float
    present: bool


@dataclass(frozen=True)
class Edge:
    """A direct arc: its SVG path, the place of its sign, and its verdict (`untried` if it has none)."""

    cur: str
    new: str
    verdict: str
    symbol: str
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Diagram:
    """Everything to draw, in a view of `width` by `height`."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of the state table."""

    cur: str
    new: str
    verdict: str
    symbol: str
    count: int
    path: str


def _centre(name: str, index: int) -> tuple[float, float]:
    column, row = _PLACES.get(name, (index % 4, index // 4))
    return float(_COLUMNS[column % 4]), float(_ROWS[min(row, 1)])


def _judged(arcs: Iterable[ArcResult]) -> dict[tuple[str, str], ArcResult]:
    return {(arc.cur, arc.new): arc for arc in arcs}


def diagram(arcs: Sequence[ArcResult], table: ArcTable = SPEC_TABLE) -> Diagram:
    """The diagram of `table`, each arc with its verdict in `arcs`.

    A device without an optional state takes arcs that the table does not list, since it skips that state.
    Those that were reached in one step are drawn too, and so is every arc that failed.
    """
    judged = _judged(arcs)
    absent = {
        name
        for name in table.states
        if (involved := [arc for arc in arcs if name in (arc.cur, arc.new) and arc.cur != arc.new])
        and all(arc.verdict == "not-applicable" for arc in involved)
    }
    skipping = [
        (a.cur, a.new) for a in arcs if a.verdict == "reached" and len(a.path) == 2 and a.cur != a.new
    ]
    failed = [(a.cur, a.new) for a in arcs if a.verdict == "failed" and a.cur != a.new]
    drawn = dict.fromkeys([*table.direct, *skipping, *failed])
    boxes = {
        name: Box(name, *_centre(name, index), _W, _H, name not in absent)
        for index, name in enumerate(table.states)
    }
    edges = []
    for cur, new in drawn:
        if cur not in boxes or new not in boxes:
            continue
        arc = judged.get((cur, new))
        verdict = arc.verdict if arc else "untried"
        path, x, y = _route(boxes[cur], boxes[new])
        edges.append(Edge(cur, new, verdict, SYMBOLS.get(verdict, "·"), path, x, y))
    return Diagram(780, 345, tuple(boxes.values()), tuple(edges))


def _route(start: Box, end: Box) -> tuple[str, float, float]:
    """The SVG path between two boxes and the place of its sign; the return path runs beside it."""
    dx, dy = end.x - start.x, end.y - start.y
    length = math.hypot(dx, dy) or 1.0
    ux, uy = dx / length, dy / length
    off_x, off_y = -uy * 11, ux * 11
    neighbour = abs(dx) <= 201 and (not dx or not dy)
    if neighbour:
        gap_start = (start.width / 2 if not uy else start.height / 2) + 2
        gap_end = (end.width / 2 if not uy else end.height / 2) + 4
        x1, y1 = start.x + ux * gap_start + off_x, start.y + uy * gap_start + off_y
        x2, y2 = end.x - ux * gap_end + off_x, end.y - uy * gap_end + off_y
        return f"M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}", (x1 + x2) / 2, (y1 + y2) / 2
    # Over (or under) the boxes between; forward and return paths bow to different heights.
    side = -1.0 if start.y < 170 else 1.0
    bow = (62.0 if dx > 0 else 36.0) * side
    inset = 26.0 if dx > 0 else 50.0
    step = math.copysign(inset, dx) if dx else 0.0
    x1, x2 = start.x + step, end.x - step
    y1, y2 = start.y + side * start.height / 2, end.y + side * end.height / 2 + side * 3
    if start.y != end.y:
        y2 = end.y - math.copysign(end.height / 2 + 3, dy)
        y1 = start.y + math.copysign(start.height / 2, dy)
        bow = 0.0
    cy = (y1 + y2) / 2 + bow * 4 / 3
    return (
        f"M{x1:.1f},{y1:.1f} C{x1:.1f},{cy:.1f} {x2:.1f},{cy:.1f} {x2:.1f},{y2:.1f}",
        (x1 + x2) / 2,
        (y1 + y2) / 2 + bow,
    )


def state_table(arcs: Sequence[ArcResult], table: ArcTable = SPEC_TABLE) -> list[list[Cell]]:
    """One row for each current state, with one cell for each requested state."""
    judged = _judged(arcs)

    def cell(cur: str, new: str) -> Cell:
        arc = judged.get((cur, new))
        if arc is None:
            return Cell(cur, new, "untried", "·", 0, "")
        return Cell(cur, new, arc.verdict, SYMBOLS[arc.verdict], arc.count, " -> ".join(arc.path))

    return [[cell(cur, new) for new in table.states] for cur in table.states]
