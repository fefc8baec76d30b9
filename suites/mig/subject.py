# SPDX-License-Identifier: Apache-2.0
"""What an experiment needs to know of the device it is written for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.oracle import migration_flags
from harness.profiles import Profile
from harness.script import Script
from harness.spec.fsm import Mig, State, direct_arcs, states

__all__ = ["Drain", "Failing", "Subject"]

Drain = tuple[int, int, int, int]
"""region, offset, how many reads, access width"""


@dataclass(frozen=True)
class Failing:
    """How to make the device fail the arc `cur` -> `new`, once: region writes (region, offset, hex)."""

    cur: State
    new: State
    enters_error: bool
    writes: Sequence[tuple[int, int, str]]


@dataclass(frozen=True)
class Subject:
    """Capabilities probed on the device, and its profile's knowledge of where its state can be seen.

    `state_regions`: [region, offset, length, access width]; `mutations`: lists of region writes
    (region, offset, hex) that change the migrated state; `drains`: for each of them, the reads (region,
    offset, count, width) that take out again what only such reads can see.  `failing`: the arcs that the
    device has and can be told to fail.
    """

    capabilities: Mapping[str, Any]
    state_regions: Sequence[Sequence[int]] = ()
    mutations: Sequence[Sequence[tuple[int, int, str]]] = ()
    drains: Sequence[Sequence[Drain]] = ()
    seed: int = 0
    data_size: int = 1 << 20
    rng: random.Random = field(default_factory=random.Random)
    failing: Sequence[Failing] = ()
    undecided: dict[str, str] = field(default_factory=dict)
    """Clause -> why a test left it undecided on this device."""

    @property
    def flags(self) -> Mig:
        """Declared migration features."""
        return migration_flags(self.capabilities)

    @property
    def states(self) -> list[State]:
        """The states it has, but ERROR, in the order of the enum."""
        return sorted(states(self.flags) - {State.ERROR})

    def has(self, name: str) -> bool:
        """Whether PROBE showed the capability."""
        if name in ("p2p", "pre_copy"):
            return bool(self.flags & (Mig.P2P if name == "p2p" else Mig.PRE_COPY))
        return bool(self.capabilities.get(name))

    def script(self, **options: Any) -> Script:
        """A new program that starts in RUNNING."""
        return Script(reset=self.has("reset"), **options)

    def mutate(self, script: Script, count: int = 3) -> list[Drain]:
        """Append writes that change the state a fingerprint sees; returns the reads that drain it.

        At each place the longest drain of those written: more was never put there.
        """
        chosen = self.rng.sample(range(len(self.mutations)), min(count, len(self.mutations)))
        longest: dict[tuple[int, int], Drain] = {}
        for number in chosen:
            for region, offset, data in self.mutations[number]:
                script.op("region_write", fd="d", region=region, off=offset, hex=data)
            for drain in self.drains[number] if self.drains else ():
                place = drain[:2]
                if place not in longest or drain[2] > longest[place][2]:
                    longest[place] = drain
        return list(longest.values())

    def fingerprint(self, script: Script) -> int | None:
        """Append a fingerprint of the state regions; None where the profile knows none."""
        if not self.state_regions:
            return None
        return script.op("fingerprint", fd="d", regions=[list(r) for r in self.state_regions])

    def drain(self, script: Script, drains: Sequence[Drain]) -> list[int]:
        """Append the reads of these drains; returns their indices."""
        return [
            script.op("region_read", fd="d", region=region, off=offset, n=width)
            for region, offset, count, width in drains
            for _ in range(count)
        ]

    def chunks(self) -> list[int]:
        """A random segmentation, small pieces and large ones."""
        return [self.rng.choice((1, 2, 3, 7, 16, 23, 24, 25, 64, 511, 4096, 65536)) for _ in range(6)]

    @classmethod
    def of(cls, capabilities: Mapping[str, Any], profile: Profile, seed: int) -> Subject:
        """The subject for a device with these capabilities; `capabilities["regions"]` gives region sizes."""
        arcs = direct_arcs(migration_flags(capabilities))
        sizes = {int(r["index"]): int(r["size"]) for r in capabilities.get("regions") or ()}
        return cls(
            capabilities,
            [r.as_wire() for r in profile.present_state(sizes)],
            [
                [(w.region, w.offset, w.data.hex()) for w in m.writes]
                for m in profile.present_mutations(sizes)
            ],
            [
                [(d.region, d.offset, d.count, d.width) for d in m.drains]
                for m in profile.present_mutations(sizes)
            ],
            seed,
            int(capabilities.get("stream_bytes") or 1 << 20),
            random.Random(seed),
            [
                Failing(
                    State[cur],
                    State[new],
                    bool(h.enters_error),
                    [(w.region, w.offset, w.data.hex()) for w in h.writes],
                )
                for h in profile.error_hooks
                if h.how == "registers"
                for cur, new in (h.arc,)
                if (State[cur], State[new]) in arcs
            ],
        )
