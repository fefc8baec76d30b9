# SPDX-License-Identifier: Apache-2.0
"""Every MUST of MIG and DIRTY has a seeded defect, or a reason in fixtures/reference/unseeded.yaml."""

from __future__ import annotations

import yaml

from harness.commands.prove.defects import FIXTURES, catalogue, check_defects
from harness.spec.clause import Level, by_id

CHAPTERS = ("MIG-", "DIRTY-")
MUST: Level = "MUST"


def unseeded() -> dict[str, str]:
    """Clause id -> why no defect breaks it."""
    groups = yaml.safe_load((FIXTURES / "reference" / "unseeded.yaml").read_text(encoding="utf-8"))
    listed = [(clause, group["reason"]) for group in groups for clause in group["clauses"]]
    assert len(listed) == len({clause for clause, _ in listed}), "a clause is listed twice"
    return dict(listed)


def test_every_must_has_a_defect_or_a_reason() -> None:
    seeded = {d.clause for d in catalogue()}
    wanted = {i for i, c in by_id().items() if i.startswith(CHAPTERS) and c.level == MUST}
    assert sorted(wanted - seeded - unseeded().keys()) == []


def test_a_reason_is_for_a_clause_that_exists_and_has_no_defect() -> None:
    seeded = {d.clause for d in catalogue()}
    assert [c for c in unseeded() if c not in by_id() or c in seeded] == []
    assert all(len(reason.split()) > 5 for reason in unseeded().values())


def test_clauses_devices_and_names_of_all_defects_are_good() -> None:
    found = catalogue()
    check_defects(found)
    assert len({d.name for d in found}) == len(found)
    assert sum(d.module == "vfiocert_ref" for d in found) >= 75
