# SPDX-License-Identifier: Apache-2.0
"""Executed lines: real counters of a real compiler, figures, reasons, comparison, and damaged input."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands.coverage.collect import Function, Source, _below_the_build, _unpacked, executed_lines
from harness.commands.coverage.figures import (
    TARGETS,
    Reason,
    annotate,
    compare,
    figures,
    load_reasons,
    load_saved,
    ranges,
    save,
    table,
)
from harness.errors import LabError, UsageError
from harness.lab.kernel import GCOV_FOLDERS, KernelBuild

CODE = """\
int taken(int x)
{
\tif (x > 1)
\t\treturn 1;
\treturn 0;
}

int main(void)
{
\treturn taken(0);
}
"""
FILE = "drivers/vfio/group.c"


def source(missed: list[int], ran: list[int], **functions: tuple[int, int]) -> Source:
    """A source file with these lines."""
    lines = Counter({**dict.fromkeys(missed, 0), **dict.fromkeys(ran, 3)})
    return Source(lines, {name: Function(name, *place) for name, place in functions.items()})


@pytest.fixture
def compiled(tmp_path: Path) -> KernelBuild:
    """A build tree with one profiled object, which has run."""
    tree, build = tmp_path / "source", tmp_path / "build"
    for folder in GCOV_FOLDERS:
        (tree / folder).mkdir(parents=True)
        (build / folder).mkdir(parents=True)
    (tree / FILE).write_text(CODE)
    binary = tmp_path / "binary"
    work = build / "drivers/vfio"
    for command in (
        ["gcc", "--coverage", "-c", str(tree / FILE), "-o", "group.o"],
        ["gcc", "--coverage", "group.o", "-o", str(binary)],
        [str(binary)],
    ):
        subprocess.run(command, cwd=work, check=True, timeout=60, capture_output=True)
    return KernelBuild("key", "7.2.12", "gcov", tmp_path, build, tree, ())


def test_counters_become_executed_lines(compiled: KernelBuild) -> None:
    """A line that ran, a line that did not, and a line without code."""
    assert compiled.build_tree
    data = (compiled.build_tree / "drivers/vfio/group.gcda").read_bytes()
    found = executed_lines(compiled, {"drivers/vfio/group.gcda": data})
    assert found[FILE].missed() == [4]
    assert 2 not in found[FILE].lines
    assert found[FILE].functions["taken"].first == 1


def test_an_object_that_never_ran_has_all_its_lines_missed(compiled: KernelBuild) -> None:
    """Without counters nothing is covered, and the lines still count."""
    assert compiled.build_tree
    (compiled.build_tree / "drivers/vfio/group.gcda").unlink()
    found = executed_lines(compiled, {})
    assert found[FILE].covered == 0
    assert len(found[FILE].lines) >= 5


def test_damaged_counters_are_the_labs_fault(compiled: KernelBuild) -> None:
    """One line with gcov's message."""
    with pytest.raises(LabError, match="not a gcov data file"):
        executed_lines(compiled, {"drivers/vfio/group.gcda": b"damaged"})


def test_damaged_notes_are_the_labs_fault(compiled: KernelBuild) -> None:
    """One line with gcov's message."""
    assert compiled.build_tree
    (compiled.build_tree / "drivers/vfio/group.gcno").write_bytes(b"oncg")
    with pytest.raises(LabError, match=r"gcov cannot read group\.gcno: "):
        executed_lines(compiled, {})


def test_only_a_gcov_build_of_ours_will_do(compiled: KernelBuild) -> None:
    """A plain kernel has no counters; a build without notes is damaged."""
    with pytest.raises(UsageError, match="plain"):
        executed_lines(replace(compiled, flavour="plain"), {})
    assert compiled.build_tree
    (compiled.build_tree / "drivers/vfio/group.gcno").unlink()
    with pytest.raises(LabError, match=r"no \.gcno"):
        executed_lines(compiled, {})


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("./root/x/KEY.part/build/drivers/vfio/pci/a.gcda", "drivers/vfio/pci/a.gcda"),
        ("./root/x/build/drivers/iommu/iommufd/a.gcda", "drivers/iommu/iommufd/a.gcda"),
        ("./root/x/build/drivers/net/a.gcda", None),
        ("./root/x/build/drivers/vfio/../../../etc/a.gcda", None),
        ("drivers/vfio/a.gcda", None),
        ("./root/x/build/drivers/vfio/a.sh", None),
    ],
)
def test_only_counters_of_the_profiled_folders_are_taken(name: str, place: str | None) -> None:
    """The archive comes from a guest and is not trusted."""
    assert _below_the_build(name) == place


def test_a_damaged_archive_is_the_labs_fault() -> None:
    """Cut short, or no archive at all."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        member = tarfile.TarInfo("./k/build/drivers/vfio/a.gcda")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    assert _unpacked(whole.getvalue(), "lab") == {"drivers/vfio/a.gcda": b"abc"}
    for data in (b"", b"no archive", whole.getvalue()[:20]):
        with pytest.raises(LabError, match="damaged"):
            _unpacked(data, "lab")


def test_several_machines_add_up() -> None:
    """A line counts where any of them ran it."""
    both = source([1, 2], [3])
    both.merge(source([1, 3], [2]))
    assert both.missed() == [1]
    assert both.percent == pytest.approx(66.7, abs=0.1)


def test_figures_know_target_and_reason(tmp_path: Path) -> None:
    """Targets first; a reason for a function, or for lines of it that contain a text."""
    (tmp_path / "drivers/vfio").mkdir(parents=True)
    (tmp_path / FILE).write_text("a\nnoiommu\nc\nd\n")
    sources = {
        FILE: source([1, 2, 3], [4], f=(1, 4)),
        "drivers/vfio/other.c": source([], [1]),
        "x.h": source([], [1]),
    }
    reasons = (Reason(FILE, "f", "needs other hardware", "noiommu"), Reason(FILE, "gone", "x"))
    found = figures(sources, reasons, tmp_path)
    assert [f.file for f in found] == [FILE, "drivers/vfio/other.c"]
    assert (found[0].covered, found[0].explained, found[0].met) == (1, 1, False)
    assert found[0].target == TARGETS[FILE][0]
    assert table(found, {FILE: 10.0})[1][-1] == "10.0"
    annotate(tmp_path / "out", sources, reasons, tmp_path)
    text = (tmp_path / "out" / f"{FILE}.gcov").read_text().splitlines()
    assert text[0].split(":") == ["     #####", "    1", "a"]
    assert "needs other hardware" in text[1]
    assert text[3].strip().startswith("3:")


def test_what_was_saved_is_compared(tmp_path: Path) -> None:
    """New and lost lines in words; another kernel's lines are not compared."""
    old = {FILE: source([1, 2, 3, 7], [4])}
    save(tmp_path / "c.json", old, {"kernel": "k"}, figures(old, (), tmp_path))
    document = load_saved(tmp_path / "c.json")
    before, words = compare(document, {FILE: source([1, 4], [2, 3, 7])}, "k")
    assert before == {FILE: 20.0}
    assert words == [f"{FILE}: now reached: 2-3, 7", f"{FILE}: no longer reached: 4"]
    assert "not compared" in compare(document, {}, "other")[1][0]


def test_ranges() -> None:
    """Runs of lines."""
    assert ranges([]) == []
    assert ranges([3, 1, 2, 9]) == ["1-3", "9"]


@pytest.mark.parametrize(
    "text", ["x: 1", "- file: a", "- {file: a, function: b, reason: 1}", "- {a: b}", "- [", "\xff"]
)
def test_wrong_reasons_are_refused(text: str, tmp_path: Path) -> None:
    """The message has the number of the entry, or the parser's message."""
    (tmp_path / "r.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"r\.yaml"):
        load_reasons(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "text", ["", "[]", json.dumps({"schema": 99, "files": {}}), json.dumps({"schema": 1})]
)
def test_what_is_no_earlier_run_is_refused(text: str, tmp_path: Path) -> None:
    """The message names the option."""
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UsageError, match="--compare="):
        load_saved(tmp_path / "c.json")


def test_the_projects_reasons_are_well_formed() -> None:
    """docs/coverage-unreached.yaml, and no entry twice."""
    found = load_reasons()
    assert len({(r.file, r.function, r.text) for r in found}) == len(found)
