# SPDX-License-Identifier: Apache-2.0
"""The bounded-exhaustive sweep: the transition tour (`suites/mig/tour.py`) as programs with a `walk` each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from typing import Any

from harness.oracle.judgement import Judgement
from harness.program.script import Script
from harness.spec.arcs import Mig, S, State, reachable_by_set
from suites.mig.tour import Tour
from suites.mig.tour_graph import RESET

__all__ = ["sweep_programs"]

_VAIN = 2
"""So many programs in a row that were cut short before they came to anything new end the sweep."""


def sweep_programs(
    flags: Mig, depth: int, chunk: int | Callable[[], int] = 20_000, *, tour: Tour | None = None
) -> Generator[dict[str, Any], Judgement | None, None]:
    """Programs that together walk every window of up to `depth` targets (see `Tour`), the short ones first.

    Who sends what the judge said of each program has the tour planned anew after a surprise or a walk that
    was cut short; without (`next`, `for`) the device is taken to have kept every rule.  A program takes about
    `chunk` targets, which may be a function that is asked before each; 0 ends the sweep.  RESUMING is always
    given a whole stream, so that it can be left.  `tour`: the caller's own, to see how far it came.
    """
    tour = tour or Tour(flags, depth)
    vain = 0
    while vain < _VAIN:
        limit = chunk if isinstance(chunk, int) else chunk()
        tour.restart()
        targets = tour.next_targets(limit) if limit > 0 else b""
        if not targets:
            return
        before = tour.remaining, tour.surprises
        verdict = yield _program(targets, reset=tour.resets)
        tour.walked(targets, _by_the_rules(targets, flags) if verdict is None else verdict.walked)
        vain = vain + 1 if (tour.remaining, tour.surprises) == before else 0


def _program(targets: bytes, *, reset: bool) -> dict[str, Any]:
    script = Script(reset=reset)
    script.save("stream")
    script.set(S.RUNNING)
    script.op("walk", fd="d", targets=base64.b64encode(targets).decode(), stream="stream")
    return script.to_json()


def _by_the_rules(targets: bytes, flags: Mig) -> bytes:
    """The states of a device that keeps every rule."""
    state: State = S.RUNNING
    states = bytearray()
    for target in targets:
        state = S.RUNNING if target == RESET else reachable_by_set(state, [target], flags)
        states.append(state)
    return bytes(states)
