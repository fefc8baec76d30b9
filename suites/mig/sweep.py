# SPDX-License-Identifier: Apache-2.0
"""The bounded-exhaustive sweep: every sequence of SETs up to a depth from RUNNING, as `walk` operations."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

from harness.program.script import Script
from harness.spec.arcs import Mig, S, states

__all__ = ["sweep_programs", "sweep_targets"]


def sweep_targets(flags: Mig) -> tuple[int, ...]:
    """Targets of a SET: the declared states; ERROR and numbers outside the enum are tried elsewhere."""
    return tuple(int(s) for s in sorted(states(flags)) if s != S.ERROR)


def sweep_programs(flags: Mig, depth: int, chunk: int = 4000) -> Iterator[dict[str, Any]]:
    """Programs that together walk every sequence of exactly `depth` SETs (and so every shorter one).

    Each is followed by SET(RUNNING).  RESUMING is always given a whole stream, so that it can be left.
    `chunk` sequences go into one program, so that the kernel log is read often enough to lose nothing.
    """
    sequences = itertools.product(sweep_targets(flags), repeat=depth)
    while part := list(itertools.islice(sequences, chunk)):
        targets = bytearray()
        for sequence in part:
            targets += bytes(sequence)
            targets.append(int(S.RUNNING))
        script = Script()
        script.save("stream")
        script.set(S.RUNNING)
        encoded = base64.b64encode(bytes(targets)).decode()
        script.op("walk", fd="d", targets=encoded, stream="stream")
        yield script.to_json()
