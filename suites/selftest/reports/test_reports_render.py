# SPDX-License-Identifier: Apache-2.0
"""Every report is made from the run alone, is well formed, and shows hostile text as text."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.spec.arcs import DIRECT_ARCS
from reports.formats.html import render_html
from reports.formats.junit import render_junit
from reports.formats.ktap import render_ktap
from reports.formats.summary import print_summary, summary_lines
from reports.listing import program_lines, trace_lines
from reports.models import ArcResult, Run
from reports.render import render_all
from reports.statemap import SPEC_TABLE, ArcTable, diagram, state_table
from suites.selftest.reports.example import example_run

HOSTILE = "</pre><script>alert(1)</script>\"'&]]>\x1b[31m\x00\u202e\ud800 <img src=x>"
VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


class _Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile_run() -> Run:
    """The example with hostile text wherever text may stand."""
    data = example_run().model_dump(mode="json")

    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(each, key) for each in value]
        free = {
            "title",
            "expected",
            "observed",
            "explanation",
            "reason",
            "statement",
            "notes",
            "driver",
            "host",
        }
        free |= {"kernel_log", "command", "source", "kernel", "lab", "cdev", "out", "migration", "profile"}
        return HOSTILE if key in free and isinstance(value, str) else value

    return Run.model_validate(poison(data))


@pytest.mark.parametrize("make", [example_run, hostile_run, Run])
def test_the_page_is_well_formed_and_fetches_nothing(make: type[Run]) -> None:
    text = render_html(make())
    page = _Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("href", "src"):
            assert value == "data:," or value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", text)
    assert "\x1b" not in text
    assert "\x00" not in text
    text.encode("utf-8")


def test_the_page_shows_verdict_findings_and_reasons() -> None:
    words = " ".join(_Page(render_html(example_run(), out_dir="runs/1")).words)
    for expected in (
        "Non-conforming", "errno EINVAL, state STOP_COPY", "success, state PRE_COPY", "62/64 cells",
        "PROBE of DMA_LOGGING_START said ENOTTY", "./vfiocert replay runs/1/findings/mig-007-1.json",
        "example_set_state+0x1f2/0x240", "expired on 2026-10-01", "main[1]", "4096 before, 4608 after",
    ):  # fmt: skip
        assert expected in words


def test_the_page_is_bounded() -> None:
    run = example_run()
    (broken, _) = run.devices
    broken.clauses[2].findings[0].kernel_log = ["x" * 900] * 400
    run.devices = [broken] * 3
    assert len(render_html(run)) < 2_000_000


def test_the_diagram_draws_every_direct_arc_of_the_specification() -> None:
    drawn = {(edge.cur, edge.new) for edge in diagram([]).edges}
    assert drawn == {(cur.name, new.name) for cur, new in DIRECT_ARCS}
    assert {edge.verdict for edge in diagram([]).edges} == {"untried"}


def test_the_diagram_takes_its_table_as_data() -> None:
    tiny = ArcTable(("STOP", "RUNNING"), (("STOP", "RUNNING"),))
    picture = diagram([], tiny)
    assert [(edge.cur, edge.new) for edge in picture.edges] == [("STOP", "RUNNING")]
    assert len(picture.boxes) == 2


def test_boxes_do_not_overlap_and_everything_is_inside_the_view() -> None:
    for device in example_run().devices:
        picture = diagram(device.arcs)
        places = {(box.x, box.y) for box in picture.boxes}
        assert len(places) == 8
        for edge in picture.edges:
            numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", edge.path)]
            assert all(0 <= x <= picture.width for x in numbers[::2])
            assert 10 <= edge.y <= picture.height - 10
        signs = [(round(edge.x), round(edge.y)) for edge in picture.edges]
        assert len(set(signs)) == len(signs)


def test_a_device_without_p2p_shows_the_arcs_that_skip_it() -> None:
    picture = diagram(example_run().devices[1].arcs)
    drawn = {(edge.cur, edge.new): edge.verdict for edge in picture.edges}
    assert drawn["RUNNING", "STOP"] == "reached"
    assert drawn["RUNNING", "RUNNING_P2P"] == "not-applicable"
    assert {box.name for box in picture.boxes if not box.present} == {
        "RUNNING_P2P",
        "PRE_COPY",
        "PRE_COPY_P2P",
    }


def test_a_failed_arc_is_drawn_even_where_the_table_has_none() -> None:
    picture = diagram(example_run().devices[0].arcs)
    assert {(e.cur, e.new) for e in picture.edges if e.verdict == "failed"} == {
        ("STOP_COPY", "PRE_COPY"),
        ("RUNNING_P2P", "PRE_COPY_P2P"),
    }


def test_the_table_has_64_cells_and_says_which_were_not_tried() -> None:
    rows = state_table([ArcResult(cur="STOP", new="RUNNING", verdict="failed", count=3)], SPEC_TABLE)
    assert [len(row) for row in rows] == [8] * 8
    assert rows[1][2].verdict == "failed"
    assert sum(cell.verdict == "untried" for row in rows for cell in row) == 63


def test_the_count_of_cells_takes_each_once_and_no_failure() -> None:
    device = example_run().devices[0]
    assert device.arcs_covered() == 62
    device.arcs = device.arcs * 2
    assert device.arcs_covered() == 62


@pytest.mark.parametrize("make", [example_run, hostile_run, Run])
def test_junit_is_xml_with_a_case_for_each_clause(make: type[Run]) -> None:
    run = make()
    root = ET.fromstring(render_junit(run))
    assert len(root.findall("./testsuite/testcase")) == sum(len(device.clauses) for device in run.devices)
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.get(name, "")) == len([c for c in root.iter("testcase") if c.find(tag) is not None])


def test_junit_has_the_counts_of_the_run() -> None:
    root = ET.fromstring(render_junit(example_run()))
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["11", "2", "1", "3"]


@pytest.mark.parametrize("make", [example_run, hostile_run, Run])
def test_ktap_follows_the_format(make: type[Run]) -> None:
    lines = render_ktap(make()).splitlines()
    assert lines[0] == "KTAP version 1"
    planned = {0: int(lines[1].removeprefix("1.."))}
    seen = {0: 0, 1: 0}
    for line in lines[2:]:
        depth = 1 if line.startswith("  ") else 0
        body = line.strip()
        if body.startswith("KTAP version"):
            seen[1] = 0
        elif plan := re.fullmatch(r"1\.\.(\d+)", body):
            planned[depth] = int(plan[1])
        elif not body.startswith("#"):
            result = re.fullmatch(r"(?:not )?ok (\d+) [^#]+(?: # (?:SKIP|XFAIL|ERROR)\b.*)?", body)
            assert result, line
            seen[depth] += 1
            assert int(result[1]) == seen[depth] <= planned[depth]
    assert seen[0] == planned[0]


def test_ktap_words() -> None:
    text = render_ktap(example_run())
    assert "\n  ok 1 MIG-001 " in text
    assert "\n  not ok 3 MIG-007 " in text
    assert re.search(r"\n  not ok 6 MIG-013 .* # ERROR the lab host", text)
    assert re.search(r"\n  ok 8 MIG-015 .* # SKIP PROBE", text)
    assert "\nnot ok 1 0000:3b:00.1\n" in text
    assert "\nok 2 mtty-1\n" in text


@pytest.mark.parametrize("make", [example_run, hostile_run, Run])
def test_the_summary_sends_nothing_to_the_terminal_but_text(make: type[Run]) -> None:
    text = "\n".join(summary_lines(make(), "runs/1"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_the_summary_says_what_is_needed_to_act() -> None:
    text = "\n".join(summary_lines(example_run(), "runs/1"))
    for expected in (
        "0000:3b:00.1: non-conforming", "2 fail, 1 inconclusive", "clause     MIG-007 (MUST)",
        "expected   errno EINVAL", "observed   success", "RUNNING -> SET STOP_COPY",
        "./vfiocert replay runs/1/",
        "62/64 cells of the state table reached, refused as they must be, or not applicable",
        "verdict: non-conforming",
    ):  # fmt: skip
        assert expected in text


def test_the_summary_is_plain_without_a_terminal_and_coloured_with_one() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, tty = io.StringIO(), Terminal()
    print_summary(example_run(), "runs/1", plain)
    print_summary(example_run(), "runs/1", tty)
    assert "\x1b" not in plain.getvalue()
    assert [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", tty.getvalue()).splitlines()] == [
        line.rstrip() for line in plain.getvalue().splitlines()
    ]


def test_a_terminal_without_unicode_is_survived() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_summary(example_run(), "", stream)
    stream.flush()
    assert b"verdict: non-conforming" in raw.getvalue()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["threads", "ops", "name"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["threads", "devices", "x"]), _JSON, max_size=3))
def test_any_program_gives_lines(program: dict[str, object]) -> None:
    assert all("\n" not in line for line in program_lines(program))


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["t", "i", "op", "ret", "errno", "skipped", "x"]), _JSON), max_size=4
    )
)
def test_any_trace_gives_lines(trace: list[dict[str, object]]) -> None:
    assert len(trace_lines(trace)) == len(trace)


def test_errno_is_named_in_a_trace() -> None:
    assert trace_lines([{"t": "main", "i": 4, "op": "set_state", "ret": -1, "errno": 22}]) == [
        "main[4] set_state = -1 EINVAL"
    ]


def test_rendering_again_changes_nothing_and_leaves_the_results_of_allure_alone(tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    run = example_run()
    render_all(run, tmp_path)
    assert not (tmp_path / "allure-results").exists()
    (tmp_path / "allure-results").mkdir()
    (tmp_path / "allure-results" / "1-result.json").write_text("of the run")
    before = files()
    render_all(run, tmp_path)
    assert files() == before


def test_the_command_renders_from_run_json_alone(tmp_path: Path) -> None:
    import typer

    from harness.commands.report import report

    (tmp_path / "run.json").write_text(json.dumps(example_run().model_dump(mode="json")))
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 0
    assert "verdict: non-conforming" in result.output
    assert (tmp_path / "run.html").is_file()
