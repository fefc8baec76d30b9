# SPDX-License-Identifier: Apache-2.0
"""The bounded-exhaustive sweep: every sequence of SETs up to a depth from RUNNING, as `walk` operations."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

from harness.script import Script
from harness.spec.fsm import Mig, S, reachable_by_set, states
from harness.walk_judge import RESET

__all__ = ["sweep_programs", "sweep_targets"]


def sweep_targets(flags: Mig) -> tuple[int, ...]:
    """Targets of a SET: the declared states; ERROR and numbers outside the enum are tried elsewhere."""
    return tuple(int(s) for s in sorted(states(flags)) if s != S.ERROR)


def _return(sequence: tuple[int, ...], flags: Mig) -> int:
    """How to get back to RUNNING: SET where the model says it can be done, else a reset.

    RESUMING is not left by SET without a stream, so whatever came after it changed nothing.
    """
    state = S.RUNNING
    for target in sequence:
        if state == S.RESUMING:
            return RESET
        state = reachable_by_set(state, (target,), flags)
    return RESET if state == S.RESUMING else int(S.RUNNING)


def sweep_programs(flags: Mig, depth: int, chunk: int = 4000) -> Iterator[dict[str, Any]]:
    """Programs that together walk every sequence of exactly `depth` SETs (and so every shorter one).

    `chunk` sequences go into one program, so that the kernel log is read often enough to lose nothing.
    """
    sequences = itertools.product(sweep_targets(flags), repeat=depth)
    while part := list(itertools.islice(sequences, chunk)):
        targets = bytearray()
        for sequence in part:
            targets += bytes(sequence)
            targets.append(_return(sequence, flags))
        script = Script()
        script.op("walk", fd="d", targets=base64.b64encode(bytes(targets)).decode())
        yield script.to_json()
