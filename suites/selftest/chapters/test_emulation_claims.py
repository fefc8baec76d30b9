# SPDX-License-Identifier: Apache-2.0
"""Claims of chapters EMU and ACC (tokens): none fails on a host that keeps every rule, and each can fail.

The traces are made from the claims themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.experiment import declared, experiments_in
from fixtures.subject import Subject
from harness.oracle.judge import _judge_claims, applicable
from harness.oracle.judgement import Judgement
from harness.profiles import load_profile
from harness.program.script import Script
from harness.spec.clause import by_id
from suites.acc import experiments_tokens, experiments_virtual_functions
from suites.emu import experiments_emulated, experiments_host, experiments_noiommu

CAPABILITIES: dict[str, Any] = {
    "emulated": True, "mdev": True, "legacy": True, "reset": True, "state_regions": True,
    "engine": "vfiocert_ref", "flags": 2, "pci": True, "no_vf_token": True, "group_pair": True,
    "bind_token": True,
    "config_ids": "34121e11", "names": {"dev0": "0000:02:00.1", "dev1": "0000:02:00.0"},
    "regions": [{"index": 0, "size": 0x4000}, {"index": 2, "size": 0x10000}, {"index": 7, "size": 256}],
}  # fmt: skip


def scripts() -> Iterator[tuple[str, Script]]:
    """Every program of the two chapters."""
    subject = Subject.of(CAPABILITIES, load_profile("vfiocert_ref"), 1)
    for experiment in experiments_in(experiments_emulated, experiments_tokens, experiments_noiommu):
        for script in experiment(subject):
            yield experiment.__name__, script
    yield "uio", experiments_host._uio_program("/dev/uio0", "/sys/x/config")


PROGRAMS = list(scripts())
NAMES = [f"{name}-{number}" for number, (name, _) in enumerate(PROGRAMS)]


def other(value: Any) -> Any:
    """A value that is not this one."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"{value}x"


def holding(records: dict[int, dict[str, Any]], test: list[Any], wanted: bool) -> None:
    """Set the fields of a comparison so that it holds, or not."""
    (left, compare, right) = test
    record = records[left["op"]]
    value = records[right["op"]].setdefault(right["field"], 7) if isinstance(right, dict) else right
    equal = {"==": wanted, "!=": not wanted}.get(compare)
    if equal is not None:
        record[left["field"]] = value if equal else other(value)
    else:
        assert compare == ">"
        record[left["field"]] = value + 1 if wanted else value


def trace_of(program: dict[str, Any], broken: int = -1) -> list[dict[str, Any]]:
    """A trace in which every claim is checked and holds, except claim number `broken`."""
    ops = program["threads"][0]["ops"]
    records: dict[int, dict[str, Any]] = {
        i: {"t": "main", "i": i, "op": name, "ret": 0, "errno": 0, "t0": i, "dt": 1}
        for i, (name, _) in enumerate(ops)
    }
    order = [n for n in range(len(program["claims"])) if n != broken] + ([broken] if broken >= 0 else [])
    for number in order:
        claim = program["claims"][number]
        for condition in claim["when"]:
            holding(records, condition, True)
        holding(records, claim["test"], number != broken)
    return list(records.values())


def broken_claims(program: dict[str, Any], broken: int = -1) -> set[str]:
    """Clauses whose claims the oracle finds broken on such a trace; no other judge runs."""
    records: dict[tuple[str | None, int], Any] = {(None, r["i"]): r for r in trace_of(program, broken)}
    verdict = Judgement()
    _judge_claims(program, records, verdict)
    assert set(verdict.checked) == {claim["clause"] for claim in program["claims"]} or broken >= 0
    return {violation.clause for violation in verdict.violations}


@pytest.mark.parametrize("number", range(len(PROGRAMS)), ids=NAMES)
def test_each_claim_can_fail_and_none_does_without_reason(number: int) -> None:
    """Steps: make a trace from the claims, then break one claim at a time."""
    program = PROGRAMS[number][1].to_json()
    assert program["claims"]
    assert not broken_claims(program)
    for index, claim in enumerate(program["claims"]):
        assert claim["clause"] in broken_claims(program, index), claim


def test_every_clause_of_the_chapters_has_a_claim_or_an_observation() -> None:
    """A clause that no program claims is observed by an experiment that does its own work."""
    claimed = {claim["clause"] for _, script in PROGRAMS for claim in script.to_json()["claims"]}
    observed = {
        clause
        for test in experiments_in(experiments_host, experiments_virtual_functions, programs=False)
        for clause in declared(test).clauses
    }
    ids = {i for i in by_id() if i.startswith("EMU-") or i.startswith("ACC-14") or i.startswith("ACC-15")}
    assert ids <= claimed | observed, sorted(ids - claimed - observed)


def test_special_devices_are_spoken_of_by_their_own_clauses_alone() -> None:
    """Programs of other chapters cannot open a device without an IOMMU, or a VF that needs a token."""
    for capability in ("noiommu", "vf_token_pair"):
        known = {capability: True, "bind_token": True, "group_pair": True}
        spoken = {i for i, clause in by_id().items() if not applicable(clause, known)}
        assert spoken
        assert spoken == {i for i in spoken if capability in by_id()[i].needs}
