# SPDX-License-Identifier: Apache-2.0
"""From trials to the matrix: what counts as caught, as a false alarm, as no verdict; and how it is shown."""

from __future__ import annotations

import json

import pytest

from harness.commands.prove.defects import Defect
from harness.commands.prove.matrix import build_matrix, short_case
from harness.commands.prove.render import markdown, page, text_table, with_summary
from harness.commands.prove.result import Result, Seen, read_events, result_from_json
from harness.commands.prove.trial import Job
from harness.errors import UsageError
from harness.hosts.inventory import embedded_variants
from reports.models import Finding

DEFECT = Defect("fd_leaks", "core", "MIG-058", "lets <it> leak | out", "ref", where="vfio_main.c")


def trial(*clauses: str, seed: int = 1, device: str = "ref", golden: bool = False, **values) -> Result:
    seen = [Seen(clause, 1.0 + n, 3 + n, "t", "this", "that") for n, clause in enumerate(clauses)]
    subject = device if golden else "fd_leaks"
    return Result(f"{subject}-{seed}", subject, golden, device, seed, seed == 1, seen=seen,
                  **{"why": "done", **values})  # fmt: skip


def test_caught_by_the_clause_it_breaks():
    matrix = build_matrix([DEFECT], [trial("MIG-010", "MIG-058")])
    row = matrix.rows[0]
    assert (row.verdict, row.seconds, row.programs) == ("caught", 2.0, 4)
    assert [s.clause for s in row.caught_by] == ["MIG-010", "MIG-058"]
    assert matrix.proved
    assert "1 of 1 seeded defects caught, 1 by the clause they break" in matrix.summary()


def test_caught_by_another_clause_only_is_listed_apart():
    matrix = build_matrix([DEFECT], [trial("MIG-010")])
    assert matrix.rows[0].verdict == "elsewhere"
    assert "~ fd_leaks: MIG-058 did not catch it; MIG-010 did" in text_table(matrix)
    assert "* ~ fd_leaks" in markdown(matrix)


def test_missed_is_no_proof():
    matrix = build_matrix([DEFECT], [trial()])
    assert matrix.rows[0].verdict == "missed"
    assert not matrix.proved


def test_what_was_not_tried_is_said_to_be_that():
    assert "? fd_leaks: no verdict: it was not tried" in text_table(build_matrix([DEFECT], []))


def test_one_seed_of_ten_that_misses_is_no_proof():
    results = [trial("MIG-058", seed=n) for n in range(1, 10)] + [trial(seed=10)]
    matrix = build_matrix([DEFECT], results)
    assert matrix.rows[0].missed_seeds == [10]
    assert not matrix.proved
    assert "with seed 10" in text_table(matrix)


@pytest.mark.parametrize("fault", [{"why": "fault", "faults": ["no lab"]}, {"bugs": ["KeyError"]}])
def test_a_failing_lab_or_a_bug_of_ours_is_neither_caught_nor_missed(fault):
    matrix = build_matrix([DEFECT], [trial(**fault)])
    assert matrix.rows[0].verdict == "undecided"
    assert not matrix.proved
    assert matrix.bugs == (["fd_leaks-1: KeyError"] if "bugs" in fault else [])


def test_a_golden_device_that_is_accused_is_a_false_alarm():
    matrix = build_matrix([], [trial(golden=True), trial("MIG-001", seed=2, golden=True)])
    assert [(a.device, a.seed, a.seen.clause) for a in matrix.alarms] == [("ref", 2, "MIG-001")]
    assert matrix.golden_runs == {"ref": 2}
    assert not matrix.proved
    assert "false alarm: ref, seed 2: MIG-001" in text_table(matrix)


def test_a_golden_run_that_did_not_end_is_none():
    matrix = build_matrix([], [trial(golden=True, why="limit")])
    assert matrix.golden_runs == {}
    assert matrix.golden_faults


def test_what_a_device_breaks_by_itself_catches_nothing():
    defect = Defect("fd_leaks", "core", "MIG-058", "", "mtty0")
    golden = trial("MIG-107", device="mtty0", golden=True)
    matrix = build_matrix([defect], [golden, trial("MIG-107", device="mtty0")])
    assert matrix.rows[0].verdict == "missed"
    assert not matrix.alarms
    assert matrix.baseline == {"mtty0": ["MIG-107"]}


def test_what_the_kernels_core_breaks_on_every_device_accuses_nobody():
    matrix = build_matrix([DEFECT], [trial("ACC-074", golden=True), trial("ACC-074")])
    assert not matrix.alarms
    assert matrix.rows[0].verdict == "missed"


def test_events_are_read_as_far_as_they_are_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    seen = {"event": "seen", "clause": "MIG-058", "s": 1.5, "programs": 7, "test": "t", "expected": "a",
            "observed": "b"}  # fmt: skip
    path.write_text(
        "\n".join([json.dumps({"event": "fresh"}), json.dumps(seen), "[]", '{"event": "test", "te'])
    )
    result = read_events(Job("ref", 1, DEFECT), path, killed=True)
    assert result.why == "killed"
    assert result.seen == [Seen("MIG-058", 1.5, 7, "t", "a", "b")]
    assert not result.lab_fault
    assert result_from_json(json.loads(json.dumps(result.as_json()))) == result


def test_the_short_case_is_the_runs_own_finding(tmp_path):
    """Steps: events of a trial, written and read back. Verify: its Finding, kept in the results and shown."""
    program = {"threads": [{"name": "main", "ops": [["set_state", {"fd": "d", "state": 1}]]}]}
    finding = Finding(
        clause="MIG-058", device="ref", title="t", expected="no fd", observed="fd 7", program=program,
        trace=[{"op": "set_state", "errno": 0}],
    )  # fmt: skip
    path = tmp_path / "events.jsonl"
    events = [
        {"event": "fresh"},
        {"event": "seen", "clause": "MIG-058", "s": 1, "programs": 1, "test": "t", "expected": "no",
         "observed": "?"},
        {"event": "finding", "finding": {"clause": "MIG-058"}},
        {"event": "finding", "finding": finding.model_dump(mode="json")},
        {"event": "end", "s": 2, "tests": 1, "planned": 1, "why": "caught"},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, events)))
    result = read_events(Job("ref", 1, DEFECT), path, killed=False)
    assert result.case == finding.model_copy(update={"trace": []})
    assert result_from_json(json.loads(json.dumps(result.as_json()))) == result
    row = build_matrix([DEFECT], [result]).rows[0]
    assert (row.case, row.expected, row.observed) == ("SET STOP", "no fd", "fd 7")


def test_a_trial_that_never_had_a_lab_is_the_labs_fault(tmp_path):
    result = read_events(Job("ref", 1, DEFECT), tmp_path / "nothing", killed=True)
    assert result.lab_fault


def test_a_trial_that_dies_is_a_bug_of_ours(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"event": "fresh"}) + "\n")
    result = read_events(Job("ref", 1, DEFECT), path, killed=False)
    assert result.bugs == ["the trial's process died"]


def test_pages_escape_what_they_show():
    matrix = build_matrix([DEFECT], [trial("MIG-058")])
    assert "lets <it> leak \\| out" in markdown(matrix)
    assert "lets &lt;it&gt; leak" in page(matrix)


def test_a_program_in_words():
    ops = [
        ["reset", {"fd": "d"}],
        ["set_state", {"fd": "d", "state": 3, "out": "f"}],
        ["read", {"fd": "f", "n": 1}],
    ]
    assert short_case({"threads": [{"ops": ops}, {"ops": [["get_state", {"fd": "d"}]]}]}) == (
        "reset; SET STOP_COPY; read fd=f n=1 || GET"
    )


def test_the_readme_gets_its_line_between_the_marks():
    text = "a\n<!-- proof -->\nold\n<!-- /proof -->\nb\n"
    assert with_summary(text, "new") == "a\n<!-- proof -->\nnew\n<!-- /proof -->\nb\n"
    with pytest.raises(UsageError, match="add the two marks"):
        with_summary("nothing", "new")


def test_what_a_variant_breaks_by_its_nature_accuses_nobody():
    named, other = "MIG-102", "MIG-100"
    assert named in embedded_variants()["ref-saves-differ"].findings
    golden = trial(named, other, device="ref-saves-differ", golden=True)
    assert [a.seen.clause for a in build_matrix([], [golden]).alarms] == [other]
    plain = trial(named, device="ref", golden=True)
    assert [a.seen.clause for a in build_matrix([], [plain]).alarms] == [named]


def test_what_a_run_of_a_variant_leaves_open_is_named_or_told():
    named = next(iter(embedded_variants()["ref-saves-differ"].undecided))
    golden = trial(device="ref-saves-differ", golden=True, undecided={named: "w", "MIG-100": "cut short"})
    faults = build_matrix([], [golden]).golden_faults
    assert len(faults) == 1
    assert "MIG-100 undecided: cut short" in faults[0]


def test_open_clauses_are_read_from_the_events(tmp_path):
    path = tmp_path / "events.jsonl"
    test = {
        "event": "test",
        "test": "t",
        "s": 1,
        "programs": 2,
        "lab_error": "",
        "undecided": {"MIG-100": "w"},
    }
    path.write_text("\n".join(map(json.dumps, [test, {"event": "open", "clause": "MIG-104", "why": "none"}])))
    result = read_events(Job("ref", 1), path, killed=False)
    assert result.undecided == {"MIG-100": "t: w", "MIG-104": "none"}
