# SPDX-License-Identifier: Apache-2.0
"""A small model of the kernel's driver matching: override, bound driver, steps."""

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
    """One call of the agent's `rebind`: the override to write, then unbinds and probes."""

    override: str
    steps: tuple[str, ...]


@dataclass
class Matching:
    """The driver that the device must have after writes of `driver_override`, unbinds and probes.

    `loaded` are the drivers that an override may name.  `native` is what a probe binds without an override;
    None is nothing, or unknown if `native_known` is False, and then it is not compared.
    """

    driver: str | None
    loaded: frozenset[str]
    native: str | None = None
    native_known: bool = True

    def apply(self, move: Move) -> list[tuple[str, str | None, bool]]:
        """What each entry of the agent's answer must show: (step, driver, whether the driver is known)."""
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
        """Apply `move`; returns each difference of the agent's answer in words, [] if there is none."""
        found: list[str] = []
        for (step, driver, known), entry in zip(self.apply(move), seen, strict=True):
            if known and entry["driver"] != driver:
                found.append(f"after {step}: {driver or 'none'} expected, {entry['driver'] or 'none'} bound")
            if (entry["override"] or "") != move.override:
                found.append(f"after {step}: driver_override reads {entry['override']!r}")
        # Go on from the real state, so that one fault is reported once.
        self.driver = seen[-1]["driver"]
        return found


def random_moves(rng: random.Random, drivers: Sequence[str], count: int) -> list[Move]:
    """`count` random moves over these drivers, an unknown name, and the cleared override."""
    names = [*drivers, NO_DRIVER, ""]
    steps = (("unbind", "probe"), ("probe",), ("unbind",), ("unbind", "probe", "probe"), ())
    return [Move(rng.choice(names), rng.choice(steps)) for _ in range(count)]
