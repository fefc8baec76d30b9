# SPDX-License-Identifier: Apache-2.0
"""`clauses` and `new`: the lists, the documents made from them, and scaffolds that pass as they are."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.commands.clauses import generated_documents, select
from harness.commands.new import insert_clause, profile_source
from harness.errors import UsageError
from harness.profiles import Profile
from harness.spec.clause import Clause, all_clauses

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("path", generated_documents(), ids=lambda p: p.name)
def test_generated_documents_are_current(path):
    assert path.read_text(encoding="utf-8") == generated_documents()[path], (
        "run ./vfiocert clauses --write-docs"
    )


def test_select_takes_ids_and_patterns():
    assert select(()) == all_clauses()
    assert [c.id for c in select(["mig-001", "MIG-003"])] == ["MIG-001", "MIG-003"]
    assert {c.id[:5] for c in select(["MIG-00*"])} == {"MIG-0"}
    with pytest.raises(UsageError, match=r"'MIG-999' names none .*near it: "):
        select(["MIG-001", "MIG-999"])


def test_the_list_has_every_clause_and_one_is_shown_in_full(capsys):
    assert main(["clauses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [c.id for c in all_clauses()]
    assert main(["clauses", "MIG-001"]) == 0
    full = capsys.readouterr().out
    clause = next(c for c in all_clauses() if c.id == "MIG-001")
    assert clause.statement in full
    assert clause.source in full


def test_json_has_every_field(capsys):
    assert main(["clauses", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row, clause in zip(rows, all_clauses(), strict=True):
        assert row.pop("chapter") == clause.chapter
        row["needs"] = tuple(row["needs"])
        assert Clause(**row) == clause


def test_write_docs_takes_nothing_else(capsys):
    assert main(["clauses", "--write-docs", "--json"]) == 2


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("spec", "profiles"):
        shutil.copytree(ROOT / "harness" / folder, tmp_path / "harness" / folder)
    return tmp_path


def new(project: Path, *arguments: str) -> int:
    return main(["new", *arguments, "--project", str(project)])


def test_a_new_clause_is_the_last_of_its_chapter(project, capsys):
    path = project / "harness" / "spec" / "clauses" / "mig.py"
    statement = 'a "quoted" rule | with a bar'
    assert (
        new(project, "clause", "MIG-999", statement, "--source", "vfio.h", "--needs", "p2p", "--level", "MAY")
        == 0
    )
    space: dict[str, object] = {"__name__": "made"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    clauses = space["CLAUSES"]
    assert isinstance(clauses, tuple)
    assert len(clauses) == len([c for c in all_clauses() if c.chapter == "MIG"]) + 1
    made = clauses[-1]
    assert (made.id, made.level, made.statement, made.needs) == ("MIG-999", "MAY", statement, ("p2p",))
    assert "no experiment yet" in made.untested


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("MIG-001", "is taken"),
        ("mig-200", "three capitals"),
        ("MIG-20", "three capitals"),
        ("XYZ-001", "no chapter XYZ (ACC"),
    ],
)
def test_a_wrong_clause_id_is_refused_and_nothing_is_written(project, capsys, id, words):
    path = project / "harness" / "spec" / "clauses" / "mig.py"
    before = path.read_text()
    assert new(project, "clause", id, "a rule", "--source", "vfio.h") == 2
    assert words in capsys.readouterr().err
    assert path.read_text() == before


def test_a_chapter_without_the_tuple_is_refused():
    with pytest.raises(UsageError, match="no tuple 'CLAUSES"):
        insert_clause("CLAUSES: list = []\n", "x")


def test_a_new_profile_is_one_file_that_is_a_profile(project, capsys):
    arguments = (
        "--driver",
        "acme-vfio-pci",
        "--description",
        'ACME "turbo" card',
        "--source",
        "drivers/x",
        "--no-dma",
    )
    assert new(project, "profile", "acme_vfio_pci", *arguments) == 0
    path = project / "harness" / "profiles" / "acme_vfio_pci.py"
    space: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    made = space["PROFILE"]
    assert isinstance(made, Profile)
    assert (made.module, made.driver, made.does_dma) == ("acme_vfio_pci", "acme-vfio-pci", False)
    assert made.description == 'ACME "turbo" card'


@pytest.mark.parametrize(
    ("module", "description", "words"),
    [
        ("mtty", "again", "is there already"),
        ("../evil", "x", "is not the name of a kernel module"),
        ("class", "x", "is not the name of a kernel module"),
        ("fine", 'x""" + evil', "triple quotes"),
    ],
)
def test_a_wrong_profile_is_refused_and_nothing_is_written(project, capsys, module, description, words):
    before = sorted(project.rglob("*"))
    assert new(project, "profile", module, "--description", description, "--source", "x") == 2
    assert words in capsys.readouterr().err
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("description", ["a card", 'ends with a "quote"', "100% {braces}"])
def test_the_source_of_a_profile_always_parses(description):
    ast.parse(profile_source("m", "d", "pci", description, True, "drivers/x"))
