# SPDX-License-Identifier: Apache-2.0
"""`clauses` and `new`: the lists, the documents made from them, and scaffolds that pass as they are."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.commands.clause_holders import holders_of
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


def test_a_clause_in_full_names_who_holds_it_and_what_breaks_it(capsys):
    assert main(["clauses", "MIG-107", "MIG-060"]) == 0
    first, _, second = capsys.readouterr().out.partition("MIG-107  MUST")
    assert re.search(r"judges +harness/oracle/migration_rules.py:\d+", first)
    assert "stop_copy_fd_lives" in first
    assert re.search(r"experiments +suites/mig/experiments_stream.py:\d+ a_damaged_stream", second)
    assert re.search(r"mainline +mtty: ", second)


def test_every_clause_with_a_check_has_a_holder():
    without = [
        c.id
        for c in all_clauses()
        if not c.untested and not holders_of(c).experiments and not holders_of(c).judges
    ]
    assert without == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the tree, as git has it."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    for name in listing.split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def new(project: Path, *arguments: str) -> int:
    return main(["new", *arguments, "--project", str(project)])


def checked(project: Path, *command: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=env, capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_what_is_new_in_any_chapter_passes_the_check(project, capsys):
    """Steps: a clause in each chapter, one in the middle of DIRTY, a profile. Verify: the check passes."""
    statement = (
        'a "quoted" rule | with a bar, and so many words that they stand on more than one line of the file'
    )
    ids = [f"{chapter}-{number}" for chapter in {c.chapter for c in all_clauses()} for number in ("998",)]
    for id in [*ids, "DIRTY-062"]:
        needs = ["--needs", "reset", "--needs", "migration"] if id == ids[0] else ["--needs", "reset"]
        assert new(project, "clause", id, statement, "--source", "vfio.h", *needs, "--level", "MAY") == 0
    assert "DIRTY-062" in (project / "harness/spec/clauses/dirty.py").read_text()
    made = ["--description", "a device of nobody", "--source", "drivers/vfio/pci/nobody"]
    assert new(project, "profile", "nobody-vfio-pci", *made) == 0
    assert statement.replace("|", "\\|") in (project / "docs/clauses.md").read_text()
    checked(project, "ruff", "check", "harness")
    checked(project, "ruff", "format", "--check", "harness")
    checked(project, "mypy", "harness/spec", "harness/profiles")
    documents = "suites/selftest/commands/test_cli_clauses.py"
    checked(project, "pytest", "-q", "suites/selftest/spec", "-m", "not lab")
    checked(project, "pytest", "-q", documents, "-k", "current or holder")


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("MIG-001", "is taken"),
        ("mig-200", "three to five capitals"),
        ("MIG-20", "three to five capitals"),
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
