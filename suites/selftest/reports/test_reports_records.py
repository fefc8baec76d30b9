# SPDX-License-Identifier: Apache-2.0
"""Verdict records: how verdicts follow, what the writer keeps, which waivers count."""

from __future__ import annotations

import datetime
import errno
import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import LabError, UsageError
from reports.models import (
    ArcResult,
    ClauseResult,
    DeviceResult,
    Finding,
    Run,
    merge,
    signature_of,
    verdict_of,
)
from reports.waivers import Waiver, apply_waivers, load_waivers
from reports.writer import RunWriter, read_run


def clause(
    number: int = 1, verdict: str = "pass", level: str = "MUST", findings: tuple[Finding, ...] = ()
) -> ClauseResult:
    return ClauseResult.model_validate(
        {
            "id": f"MIG-{number:03}",
            "level": level,
            "statement": "a rule",
            "verdict": verdict,
            "findings": list(findings),
        }
    )


def finding(title: str = "broken", observed: str = "success") -> Finding:
    return Finding(clause="MIG-001", device="dev0", title=title, expected="errno EINVAL", observed=observed)


WAIVER = {
    "clause": "MIG-001",
    "device": "dev0",
    "reason": "fixed in the next firmware",
    "link": "https://example.org/1",
    "expires": datetime.date(2027, 1, 31),
}


# -- verdicts


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "inconclusive"),
        ([("pass", "MUST")], "conforming"),
        ([("pass", "MUST"), ("not-applicable", "MUST")], "conforming"),
        ([("not-applicable", "MUST")], "inconclusive"),
        ([("pass", "MUST"), ("fail", "MUST")], "non-conforming"),
        ([("inconclusive", "MUST"), ("fail", "MUST")], "non-conforming"),
        ([("inconclusive", "MUST"), ("pass", "MUST")], "inconclusive"),
        ([("pass", "MUST"), ("inconclusive", "SHOULD")], "conforming"),
        ([("pass", "MUST"), ("fail", "SHOULD")], "conforming"),
        ([("pass", "MUST"), ("waived", "MUST")], "conforming"),
    ],
)
def test_verdict_follows_from_the_clauses(verdicts: list[tuple[str, str]], expected: str) -> None:
    assert verdict_of(clause(n, verdict, level) for n, (verdict, level) in enumerate(verdicts)) == expected


def test_a_failed_should_is_an_advisory() -> None:
    assert clause(verdict="fail", level="SHOULD").verdict == "advisory"


def test_an_advisory_must_is_refused() -> None:
    with pytest.raises(ValidationError, match="not possible for a MUST"):
        clause(verdict="advisory")


def test_a_missing_reason_is_said() -> None:
    assert clause(verdict="not-applicable").reason == "no reason was recorded"


@given(st.permutations(["pass", "fail", "inconclusive", "not-applicable"]))
def test_merging_takes_the_worst_in_any_order(verdicts: list[str]) -> None:
    whole = clause(verdict=verdicts[0])
    for verdict in verdicts[1:]:
        whole = merge(whole, clause(verdict=verdict))
    assert whole.verdict == "fail"


def test_merging_keeps_every_distinct_finding() -> None:
    both = merge(
        clause(verdict="fail", findings=(finding(),)), clause(verdict="fail", findings=(finding("other"),))
    )
    assert [each.title for each in both.findings] == ["broken", "other"]
    again = merge(both, clause(verdict="fail", findings=(finding(),)))
    assert len(again.findings) == 2


def test_signature_tells_what_differs_and_nothing_else() -> None:
    parts = ("MIG-001", "set_state", "EINVAL", "success")
    signatures = {signature_of(*p) for p in itertools.permutations(parts)}
    assert len(signatures) == 24
    assert signature_of(*parts) == signature_of(*parts)
    assert signature_of(*parts) == "715875e6a6f3516a"
    assert finding(observed="x").signature != finding(observed="y").signature


# -- what comes from a device


@given(st.text(max_size=300))
def test_any_text_in_a_finding_is_survived_and_round_trips(text: str) -> None:
    made = Finding(
        clause="MIG-001", device="d", title=text, expected=text, observed=text, path=[text],
        kernel_log=[text], trace=[{text: [text]}], program={"x": text},
    )  # fmt: skip
    assert Finding.model_validate_json(json.dumps(made.model_dump(mode="json"))) == made
    assert not set(made.title + made.expected) & {"\x1b", "\x00", "\u202e"}


def test_sizes_are_bounded() -> None:
    big = Finding(
        clause="MIG-001", device="d", title="t" * 10**6, expected="e" * 10**6, observed="\x00" * 10**6,
        kernel_log=["l" * 10**5] * 5000, trace=[{"hex": "0" * 10**6}] * 5000, program={"hex": "0" * 10**7},
    )  # fmt: skip
    assert len(json.dumps(big.model_dump(mode="json"))) < 2 * 10**6
    assert "left_out" in (big.program or {})
    assert "lines left out" in "".join(big.kernel_log)


def test_a_file_name_cannot_leave_the_folder() -> None:
    with pytest.raises(ValidationError):
        Finding(clause="M-1", device="d", title="t", expected="e", observed="o", replay="/etc/passwd")
    with pytest.raises(ValidationError):
        Finding(clause="M-1", device="d", title="t", expected="e", observed="o", replay="a/../../b")


def test_states_are_taken_in_the_spelling_of_the_kernel_too() -> None:
    arc = ArcResult.model_validate(
        {"cur": "VFIO_DEVICE_STATE_STOP", "new": "STOP_COPY", "verdict": "reached", "count": 1}
    )
    assert arc.cur == "STOP"


# -- the writer


def test_a_run_is_written_and_read_again(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", suite="0.1", seed=7, lab="embedded", command="./vfiocert certify")
    writer.set_device(DeviceResult(id="dev0", driver="mtty", kernel="7.2.12"))
    writer.append("dev0", clause(2))
    writer.append("dev0", clause(1, "fail", findings=(finding(),)))
    run = writer.finish()
    assert run.verdict == "non-conforming"
    assert run.devices[0].driver == "mtty"
    assert [each.id for each in run.devices[0].clauses] == ["MIG-001", "MIG-002"]
    assert read_run(tmp_path / "run") == run
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written >= {"results.jsonl", "run.json", "run.html", "junit.xml", "run.ktap", "summary.txt"}
    assert not [name for name in written if name.endswith(".tmp")]


def test_run_json_has_the_documented_fields(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", seed=7)
    writer.append("dev0", clause())
    writer.finish()
    data = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert data["schema"] == 1
    assert {"suite", "started", "finished", "seed", "budget", "lab", "verdict", "devices"} <= set(data)
    assert {"id", "profile", "driver", "module_srcversion", "kernel", "capabilities"} <= set(
        data["devices"][0]
    )
    assert {"id", "level", "verdict", "reason", "evidence"} <= set(data["devices"][0]["clauses"][0])


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        RunWriter(tmp_path)
    with pytest.raises(UsageError, match="no run to resume"):
        RunWriter(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_run_in_the_way_is_refused_without_resume(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        RunWriter(tmp_path / "run")


def test_resume_keeps_what_was_finished_and_drops_a_torn_line(tmp_path: Path) -> None:
    first = RunWriter(tmp_path, seed=7)
    first.append("dev0", clause(1))
    first.append("dev0", clause(2, "inconclusive"))
    journal = tmp_path / "results.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"session":1,"device":"dev0","clau')
    second = RunWriter(tmp_path, resume=True, seed=8)
    assert second.done("dev0") == {"MIG-001"}
    second.append("dev0", clause(2))
    run = second.finish()
    assert run.seed == 7
    assert run.verdict == "conforming"
    assert any("cut short" in note for note in run.notes)


def test_a_failure_survives_a_later_pass(tmp_path: Path) -> None:
    RunWriter(tmp_path).append("dev0", clause(1, "fail", findings=(finding(),)))
    again = RunWriter(tmp_path, resume=True)
    again.append("dev0", clause(1))
    assert again.snapshot().verdict == "non-conforming"


def test_within_one_session_an_inconclusive_result_is_not_hidden_by_a_pass(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.append("dev0", clause(1, "inconclusive"))
    writer.append("dev0", clause(1))
    assert writer.snapshot().verdict == "inconclusive"


def test_workers_append_to_one_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    RunWriter(tmp_path, attach=True).append("dev1", clause(1))
    writer.append("dev0", clause(1))
    assert [device.id for device in writer.snapshot().devices] == ["dev0", "dev1"]


def test_a_full_disk_is_the_lab_s_fault_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(tmp_path)
    writer.append("dev0", clause(1))
    write = os.write
    with monkeypatch.context() as patch:

        def full(fd: int, data: bytes) -> int:
            if len(data) > 40:
                return write(fd, data[:40])
            raise OSError(errno.ENOSPC, "no space left on device")

        patch.setattr(
            os, "write", lambda fd, data: full(fd, bytes(data)) if len(data) != 40 else full(fd, b"")
        )
        with pytest.raises(LabError, match="disk is full"):
            writer.append("dev0", clause(2))
    writer.append("dev0", clause(3))
    run = writer.snapshot()
    assert [each.id for each in run.devices[0].clauses] == ["MIG-001", "MIG-003"]
    assert run.notes == []


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 2}')
    with pytest.raises(UsageError, match="schema 1"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        read_run(tmp_path / "nowhere")


def test_an_unreached_device_makes_no_conforming_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.append("dev0", clause(1))
    writer.set_device(DeviceResult(id="dev1"))
    assert writer.snapshot().verdict == "inconclusive"


# -- waivers


def test_a_waiver_turns_a_failure_and_shows_its_reason(tmp_path: Path) -> None:
    waiver = Waiver.model_validate({**WAIVER, "expires": datetime.date(9999, 1, 1)})
    writer = RunWriter(tmp_path, waivers=[waiver])
    writer.append("dev0", clause(1, "fail", findings=(finding(),)))
    run = writer.finish()
    (judged,) = run.devices[0].clauses
    assert (run.verdict, judged.verdict) == ("conforming", "waived")
    assert "next firmware" in judged.reason
    assert judged.findings
    assert "next firmware" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("day", "verdict", "notes"), [(31, "waived", 0), (32, "fail", 1)])
def test_a_waiver_counts_until_the_end_of_its_day(day: int, verdict: str, notes: int) -> None:
    device = DeviceResult(id="dev0", clauses=[clause(1, "fail")])
    today = datetime.date(2027, 1, 1) + datetime.timedelta(days=day - 1)
    judged, remarks = apply_waivers(device, [Waiver.model_validate(WAIVER)], today)
    assert judged.clauses[0].verdict == verdict
    assert len(remarks) == notes


def test_a_waiver_is_about_its_own_clause_and_device() -> None:
    waiver = Waiver.model_validate(WAIVER)
    assert waiver.covers("MIG-001", "dev0")
    assert not waiver.covers("MIG-001", "dev1")
    assert not waiver.covers("MIG-002", "dev0")
    assert Waiver.model_validate({**WAIVER, "device": "*"}).covers("MIG-001", "dev1")


def test_a_waiver_that_matches_nothing_is_noted(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, waivers=[Waiver.model_validate({**WAIVER, "clause": "MIG-099"})])
    writer.append("dev0", clause(1))
    assert any("MIG-099" in note for note in writer.snapshot().notes)


_GOOD = """\
waivers:
  - clause: MIG-001
    device: dev0
    reason: fixed in the next firmware
    link: https://example.org/1
    expires: 2027-01-31
"""


def test_waivers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    assert load_waivers(path) == []
    path.write_text(_GOOD)
    assert load_waivers(path) == [Waiver.model_validate(WAIVER)]
    path.write_text("waivers:\n")
    assert load_waivers(path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("expires: 2027-01-31", "expires: never"), r"waivers\[0\].expires='never'"),
        (("expires: 2027-01-31", "expires: 5"), r"waivers\[0\].expires='5'"),
        (("    device: dev0\n", ""), r"waivers\[0\].device is missing"),
        (("device:", "devise:"), "unknown|missing"),
        (("    device: dev0\n", "    device: dev0\n    device: dev1\n"), "given twice"),
        (("https://example.org/1", "none"), r"waivers\[0\].link='none'"),
        (("fixed in the next firmware", "x"), r"waivers\[0\].reason='x'"),
        (("waivers:", "waiver:"), "one key"),
        (("  - clause", "  - ? [clause"), "not YAML"),
        (("waivers:", "waivers: &a [*a]\nx:"), "waivers"),
    ],
)
def test_a_mistake_in_the_waivers_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(_GOOD.replace(*change))
    with pytest.raises(UsageError, match=message):
        load_waivers(path)


def test_the_schema_in_the_documents_is_the_one_in_the_code() -> None:
    path = Path(__file__).parents[3] / "docs" / "run.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == Run.model_json_schema(by_alias=True)
