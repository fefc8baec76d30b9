# SPDX-License-Identifier: Apache-2.0
"""How much of the contract a run could exercise on a device: what a reader must know beside the verdict."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from harness.oracle.judge import applicable
from harness.spec.clause import Clause

__all__ = ["FOUND_BY_TESTS", "THEMES", "applying", "found_by_tests", "unexercised"]

FOUND_BY_TESTS = {"error_reached": True, "damage_accepted": True, "write_refused": True}
"""Capabilities that only a run can show: before it, nothing is excluded for want of them."""

THEMES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("migration", "", "", ("MIG-002", "MIG-030", "MIG-100")),
    (
        "fidelity of state", "migration",
        "no profile says where this device's state shows, and no engine drives it",
        ("MIG-101", "MIG-115", "MIG-116", "MIG-117", "MIG-118", "MIG-125"),
    ),
    (
        "quiet while stopped", "migration", "no traffic engine for this device",
        ("MIG-128", "MIG-129", "MIG-170", "MIG-171", "MIG-172", "MIG-173", "MIG-174", "MIG-175", "MIG-176"),
    ),
    ("the log of device DMA", "", "", ("DIRTY-010", "DIRTY-020", "DIRTY-040")),
    (
        "every page written is in the log", "the log of device DMA", "no traffic engine for this device",
        ("DIRTY-030", "DIRTY-031", "DIRTY-032", "DIRTY-033", "DIRTY-036", "DIRTY-037"),
    ),
    (
        "the state ERROR", "migration", "nothing is known that brings this device into ERROR",
        ("MIG-130", "MIG-131"),
    ),
)  # fmt: skip
"""(what is exercised, of which other theme it is a part, why a device lacks it where PROBE does not tell, the
clauses that exercise it).  A part is not named beside the whole."""


def found_by_tests(checked: Container[str]) -> dict[str, bool]:
    """The capabilities of `FOUND_BY_TESTS`, from the clauses that a run has checked.

    Only where damage was tried is it known that none is accepted, and that no write() is refused.
    """
    return {
        "error_reached": "MIG-130" in checked,
        "damage_accepted": "MIG-114" in checked or "MIG-112" not in checked,
        "write_refused": "MIG-107" in checked or not ("MIG-112" in checked or "MIG-114" in checked),
    }


def applying(clauses: Iterable[Clause], capabilities: Mapping[str, Any]) -> int:
    """How many of the clauses apply to a device with these probed capabilities."""
    known = {**capabilities, **FOUND_BY_TESTS}
    return sum(not clause.untested and not applicable(clause, known) for clause in clauses)


def unexercised(
    clauses: Iterable[Clause], capabilities: Mapping[str, Any], checked: Mapping[str, int] | None = None
) -> list[str]:
    """What of the contract is not exercised, each with the reason.

    `checked` counts the checks of a run; without it the answer is what a run could not exercise whatever it
    did.  A theme none of whose clauses was asked for is not named.
    """
    asked = {clause.id: clause for clause in clauses}
    possible = {**capabilities, **FOUND_BY_TESTS}
    found: dict[str, str] = {}
    for name, whole, reason, ids in THEMES:
        known = [asked[i] for i in ids if i in asked]
        done = [c for c in known if (not applicable(c, possible) if checked is None else checked.get(c.id))]
        if known and not done and whole not in found:
            said = next(filter(None, (applicable(c, capabilities) for c in known)), "")
            # What PROBE said of a capability tells more than that a clause needs one that no PROBE tells.
            why = reason or said or "no test of this run exercised it"
            found[name] = f"{name} ({why})"
    return list(found.values())
