# SPDX-License-Identifier: Apache-2.0
"""The judges of address spaces and of dirty bits, on an iommufd that keeps or breaks each rule."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from fixtures.fakes.iommu import IommuModel
from fixtures.subject import Subject
from harness.oracle.capability_chain import capability_chain, iova_ranges
from harness.oracle.judge import judge
from suites.dirty.experiments_iommu import (
    addresses_nobody_mapped_hide_nothing,
    one_range_leaves_the_others,
    tables_of_one_space_have_bits_of_their_own,
    tracking_begins_clean_and_sees_new_mappings,
)
from suites.dirty.random_tracking import random_tracking
from suites.dirty.tracked_table import MEMORY_BYTES, MockDirtier, TrackedTable
from suites.iom.experiments_space import copies_share_what_they_copy, what_is_mapped_is_what_is_accessed
from suites.iom.program import FIRST, PAGE, Core
from suites.iom.random_space import CompatBackend, NativeBackend, random_space

SUBJECT = Subject({"mock": "a model"}, rng=random.Random(1))


def space_programs() -> list[dict[str, Any]]:
    """Programs on IOASes and in compatibility mode, and edge cases that random programs seldom reach."""
    rng = random.Random(7)
    programs = []
    for number in range(24):
        attach = Core.mock if number % 2 else None
        programs.append(random_space(NativeBackend(attach, True), Core(), rng).to_json())
        programs.append(random_space(CompatBackend(Core.mock), Core(), rng).to_json())
    core = Core()
    core.mock()
    core.ranges()
    core.memory()
    core.map(FIRST, PAGE, flags=0)
    core.map(FIRST, 0)
    core.map((1 << 64) - PAGE, 2 * PAGE)
    core.map(FIRST + 512, PAGE)
    core.copy(FIRST + (8 << 20), PAGE, FIRST + (9 << 20), to="a")
    programs.append(core.to_json())
    for experiment in (what_is_mapped_is_what_is_accessed, copies_share_what_they_copy):
        programs += [script.to_json() for script in experiment(SUBJECT)]
    return programs


def dirty_programs() -> list[dict[str, Any]]:
    rng = random.Random(3)
    programs = [random_tracking(rng).to_json() for _ in range(40)]
    for experiment in (
        tracking_begins_clean_and_sees_new_mappings,
        tables_of_one_space_have_bits_of_their_own,
        addresses_nobody_mapped_hide_nothing,
        one_range_leaves_the_others,
    ):
        programs += [script.to_json() for script in experiment(SUBJECT)]
    return programs


def judged(model: IommuModel, programs: list[dict[str, Any]]) -> tuple[Counter[str], set[str]]:
    """Clauses checked and clauses broken."""
    checked: Counter[str] = Counter()
    broken: set[str] = set()
    for program in programs:
        verdict = judge({"mock": "a model"}, program, model.run(program))
        checked.update(verdict.checked)
        broken |= {v.clause for v in verdict.violations}
    return checked, broken


SPACE, DIRTY = space_programs(), dirty_programs()


def test_an_iommufd_that_keeps_the_rules_breaks_no_clause():
    checked, broken = judged(IommuModel(), SPACE)
    assert not broken
    assert {f"IOM-{n:03d}" for n in (*range(30, 36), *range(40, 45), 36, 37, 38, 50, 51)} <= checked.keys()
    assert {"LEG-080", "LEG-081", "LEG-082", "LEG-083"} <= checked.keys()


def test_dirty_bits_that_keep_the_rules_break_no_clause():
    checked, broken = judged(IommuModel(), DIRTY)
    assert not broken
    assert {f"DIRTY-{n}" for n in (*range(110, 120), *range(120, 124), 126)} <= checked.keys()


@pytest.mark.parametrize(
    "defect, clause",
    [
        ("refuses_neighbours", "IOM-030"), ("another_place", "IOM-030"), ("overlap", "IOM-031"),
        ("chooses_taken", "IOM-032"), ("chooses_outside", "IOM-032"), ("outside", "IOM-033"),
        ("misaligned", "IOM-034"), ("wraps", "IOM-035"), ("empty", "IOM-036"), ("no_permission", "IOM-036"),
        ("writes_lost", "IOM-037"), ("permits_all", "IOM-038"), ("wrong_length", "IOM-040"),
        ("keeps_last", "IOM-042"), ("splits", "IOM-041"), ("no_unmap_all", "IOM-042"),
        ("nothing_is_fine", "IOM-043"), ("reads_unmapped", "IOM-044"), ("stays_mapped", "IOM-044"),
        ("refuses_copies", "IOM-050"), ("copies_shifted", "IOM-037"), ("copies_nothing", "IOM-051"),
        ("refuses_neighbours", "LEG-080"), ("wrong_length", "LEG-081"), ("overlap", "LEG-082"),
        ("splits", "LEG-083"), ("stays_mapped", "LEG-080"),
    ],
)  # fmt: skip
def test_each_broken_rule_of_maps_is_caught_by_its_clause(defect, clause):
    assert clause in judged(IommuModel(defect), SPACE)[1]


@pytest.mark.parametrize(
    "defect, clause",
    [
        ("loses_last", "DIRTY-110"), ("reports_all", "DIRTY-111"), ("never_clears", "DIRTY-112"),
        ("keep_clears", "DIRTY-113"), ("clears_others", "DIRTY-114"), ("clears_given", "DIRTY-116"),
        ("one_too_many", "DIRTY-117"), ("overruns", "DIRTY-117"), ("shifted_loses", "DIRTY-118"),
        ("large_pages_lose", "DIRTY-119"), ("shared_bits", "DIRTY-120"), ("begins_dirty", "DIRTY-121"),
        ("late_map_untracked", "DIRTY-110"), ("unmap_keeps_dirty", "DIRTY-123"),
        ("stops_at_holes", "DIRTY-126"),
    ],
)  # fmt: skip
def test_each_broken_rule_of_dirty_bits_is_caught_by_its_clause(defect, clause):
    assert clause in judged(IommuModel(defect), DIRTY)[1]


def test_a_bit_of_the_callers_own_is_no_report():
    """A page that no report shows is lost (DIRTY-110), not forgotten between two (DIRTY-113, DIRTY-118)."""
    table = TrackedTable(MockDirtier(), huge=False)
    table.map(0, MEMORY_BYTES)
    table.write(0, 4096 * 5)
    table.report(0, MEMORY_BYTES, keep=True, preset="20")
    table.report(0, MEMORY_BYTES, keep=True, at=4088)
    table.report(0, MEMORY_BYTES)
    assert judged(IommuModel("loses_last"), [table.script.to_json()])[1] == {"DIRTY-110"}


def capability(kind: int, following: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "little") + b"\1\0" + following.to_bytes(4, "little") + body


def test_a_capability_chain_is_read_to_its_end():
    ranges = capability(1, 56, b"\1\0\0\0\0\0\0\0" + (5).to_bytes(8, "little") + (9).to_bytes(8, "little"))
    chain = capability_chain(ranges + capability(3, 0, b"\7\0\0\0"), 24)
    assert chain is not None
    assert set(chain) == {1, 3}
    assert iova_ranges(chain) == [(5, 9)]
    assert capability_chain(b"", 0) == {}
    assert iova_ranges({}) == [(0, (1 << 64) - 1)]


@pytest.mark.parametrize(
    "tail, offset",
    [
        (capability(1, 24, b""), 24),
        (capability(1, 0, b""), 40),
        (capability(1, 0, b""), 8),
        (capability(1, 32, b"") + capability(1, 0, b""), 24),
        (capability(1, 0xFFFFFFF8, b""), 24),
    ],
)
def test_a_chain_that_is_none_is_not_followed(tail, offset):
    assert capability_chain(tail, offset) is None


def test_a_list_of_ranges_cut_short_is_not_used():
    assert iova_ranges({1: capability(1, 0, b"\2\0\0\0\0\0\0\0" + bytes(16))}) is None
