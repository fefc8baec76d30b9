# SPDX-License-Identifier: Apache-2.0
"""What the kernel's driver matching must give, as a small model: override, bound driver, steps."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_DRIVER", "Matching", "Move", "random_moves"]

NO_DRIVER = "vfiocert-none"
"""A name that no driver has."""


@dataclass(frozen=True)
class Move:
    """What one call of the agent's `rebind` does: the override to write, then unbinds and probes."""

    override: str
    steps: tuple[str, ...]


@dataclass
class Matching:
    """The device's driver as `driver_override` and probes must leave it.

    `loaded` are the drivers that may be named; `native` is what a probe binds without an override (None:
    nothing, or what nobody can know: then `native_known` is False and it is not compared).
    """

    driver: str | None
    loaded: frozenset[str]
    native: str | None = None
    native_known: bool = True

    def apply(self, move: Move) -> list[tuple[str, str | None, bool]]:
        """What each entry of the agent's answer must show: (step, driver, whether it is known)."""
        expected = [("override", self.driver, True)]
        known = True
        for step in move.steps:
            if step == "unbind":
                self.driver, known = None, True
            elif self.driver is None and known:
                if move.override:
                    self.driver = move.override if move.override in self.loaded else None
                else:
                    self.driver, known = self.native, self.native_known
            expected.append((step, self.driver, known))
        return expected

    def differences(self, move: Move, seen: Sequence[Mapping[str, Any]]) -> list[str]:
        """Apply `move`; where the agent's answer differs, in words; [] where it is as it must be."""
        found: list[str] = []
        for (step, driver, known), entry in zip(self.apply(move), seen, strict=True):
            if known and entry["driver"] != driver:
                found.append(f"after {step}: {driver or 'none'} expected, {entry['driver'] or 'none'} bound")
            if (entry["override"] or "") != move.override:
                found.append(f"after {step}: driver_override reads {entry['override']!r}")
        # What follows is judged from what is, so that one fault is told once.
        self.driver = seen[-1]["driver"]
        return found


def random_moves(rng: random.Random, drivers: Sequence[str], count: int) -> list[Move]:
    """`count` moves over these drivers, a name of none, and the cleared override."""
    names = [*drivers, NO_DRIVER, ""]
    steps = (("unbind", "probe"), ("probe",), ("unbind",), ("unbind", "probe", "probe"), ())
    return [Move(rng.choice(names), rng.choice(steps)) for _ in range(count)]
