# SPDX-License-Identifier: Apache-2.0
"""`vfiocert clauses`: list the contract, show a clause in full, or write the documents made from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from harness import PROJECT
from harness.agent.operations import OPERATIONS
from harness.agent.validation import TYPES
from harness.commands.clause_holders import holders_of
from harness.errors import UsageError
from harness.profiles import load_profile, profile_names
from harness.spec.capabilities import CAPABILITIES
from harness.spec.clause import Clause, all_clauses

__all__ = [
    "capabilities_document",
    "clauses",
    "clauses_document",
    "generated_documents",
    "operations_document",
    "profiles_document",
    "select",
]

PUBLISHED = PROJECT / "suites" / "selftest" / "spec" / "published_clauses.txt"
"""Every clause ever published; a self-test compares it with the tables, so that none is renumbered."""
_NOTE = "<!-- SPDX-License-Identifier: Apache-2.0 -->\n<!-- Made by `./vfiocert clauses --write-docs`. -->\n"


def select(patterns: Sequence[str]) -> tuple[Clause, ...]:
    """The clauses that match one of the patterns (`MIG-012`, `MIG-1*`); without a pattern, all.

    UsageError for a pattern that matches none.
    """
    known = all_clauses()
    for pattern in patterns:
        if not any(fnmatchcase(c.id, pattern.upper()) for c in known):
            close = get_close_matches(pattern.upper(), [c.id for c in known], n=3, cutoff=0.5)
            chapters = ", ".join(f"{c}-*" for c in sorted({c.chapter for c in known}))
            hint = f"; near it: {', '.join(close)}" if close else ""
            raise UsageError(f"clause '{pattern}' names none of the clauses ({chapters}){hint}")
    return tuple(c for c in known if not patterns or any(fnmatchcase(c.id, p.upper()) for p in patterns))


def _needs(clause: Clause) -> str:
    return ", ".join(clause.needs) or "nothing"


def _in_full(clause: Clause) -> str:
    holders = holders_of(clause)
    rows: list[tuple[str, Sequence[str]]] = [
        ("source", [clause.source]),
        ("needs", [f"{n}: {CAPABILITIES[n].meaning}" for n in clause.needs] or ["nothing"]),
        ("since", [clause.since]),
        ("untested", [clause.untested] * bool(clause.untested)),
        ("judges", holders.judges),
        ("experiments", holders.experiments),
        ("defects", holders.defects or ["none that is seeded"]),
        ("mainline", holders.mainline),
    ]
    lines = [f"{clause.id}  {clause.level}", f"  {clause.statement}"]
    for name, values in rows:
        lines += [f"  {name if not n else '':<12} {value}" for n, value in enumerate(values)]
    return "\n".join(lines)


def _as_json(chosen: Sequence[Clause]) -> str:
    return json.dumps([dataclasses.asdict(c) | {"chapter": c.chapter} for c in chosen], indent=2)


def publish(published: str, clauses: Sequence[Clause]) -> str:
    """The list of published clauses, with the new ones added; existing lines never change."""
    known = {line.split(" ", 1)[0] for line in published.splitlines()}
    new = [f"{c.id} {c.level} {c.statement}\n" for c in clauses if c.id not in known]
    return published + "".join(new)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def clauses_document() -> str:
    """docs/clauses.md: one table per chapter."""
    parts = [
        _NOTE,
        "# Clauses\n",
        "What a device is held to. Cite a clause by its id; ids are never reused.\n",
    ]
    for chapter, group in groupby(all_clauses(), key=lambda c: c.chapter):
        rows = list(group)
        untested = sum(bool(c.untested) for c in rows)
        parts.append(f"## {chapter}\n\n{len(rows)} clauses, {untested} of them without a check yet.\n")
        table = ["| id | level | statement | needs | since | source |", "|---|---|---|---|---|---|"]
        for c in rows:
            statement = c.statement + (f" (untested: {c.untested})" if c.untested else "")
            cells = (c.id, c.level, statement, _needs(c), c.since, c.source)
            table.append("| " + " | ".join(map(_cell, cells)) + " |")
        parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def profiles_document() -> str:
    """docs/profiles.md: what the suite knows about each driver."""
    parts = [
        _NOTE,
        "# Profiles\n",
        "What the suite knows about a driver and cannot ask the device. One file per driver, in\n"
        "`harness/profiles/`, named after the kernel module; `./vfiocert new profile` starts one.\n"
        "Capabilities are not here: they are probed on the device.\n",
        "| profile | driver | bus | device | DMA | state regions | mutations | error hooks | source |\n"
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name in profile_names():
        p = load_profile(name)
        hooks = ", ".join(h.name for h in p.error_hooks) or "none"
        cells = (
            p.module, p.driver, p.bus, p.description, "yes" if p.does_dma else "no",
            str(len(p.state_regions)), str(len(p.mutate)), hooks, p.source or "-",
        )  # fmt: skip
        rows.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(parts) + "\n" + "\n".join(rows) + "\n"


def capabilities_document() -> str:
    """docs/capabilities.md: the capabilities that clauses can need."""
    parts = [
        _NOTE,
        "# Capabilities\n",
        "What a device, its host or its profile can have. A clause that needs a missing capability is not\n"
        "applicable. The file named here determines the capability before the suites begin.\n",
        "| capability | type | is defined by | means | determined by |\n|---|---|---|---|---|",
    ]
    rows = [
        "| " + " | ".join(map(_cell, (f"`{c.name}`", c.type, c.source, c.meaning, f"`{c.probe}`"))) + " |"
        for c in CAPABILITIES.values()
    ]
    return "\n".join([*parts, *rows]) + "\n"


def operations_document() -> str:
    """docs/operations.md: the language of programs."""
    parts = [
        _NOTE,
        "# Operations\n",
        f"The {len(OPERATIONS)} operations that a program is made of. What a program is:\n"
        "[architecture.md](architecture.md). The agent checks every program against the table in\n"
        "`harness/agent/operations.py`, which explains the marks.\n\n"
        "An argument with `?` is optional. The record of an operation has `ret`, `errno`, its times and\n"
        "the result fields named here. If an operation with the mark `device` does not return, that is a\n"
        "finding about the device.\n",
        "| operation | arguments | takes | marks | what it does | result fields |\n|---|---|---|---|---|---|",
    ]
    rows = []
    for name, one in OPERATIONS.items():
        optional = {arg: "" if arg in one.required else "?" for arg in one.args}
        arguments = ", ".join(f"{arg}{optional[arg]}: {kind}" for arg, kind in one.args.items())
        marks = ", ".join(one.marks)
        cells = (f"`{name}`", arguments, one.deadline, marks, one.does, one.gives)
        rows.append("| " + " | ".join(map(_cell, cells)) + " |")
    kinds = ["\n## Types of arguments\n", "| type | is |", "|---|---|"]
    kinds += [f"| `{kind}` | {_cell(text)} |" for kind, (_, text) in TYPES.items()]
    return "\n".join([*parts, *rows, *kinds]) + "\n"


def generated_documents() -> dict[Path, str]:
    """Path and text of every document that is generated from the tables."""
    return {
        PROJECT / "docs" / "capabilities.md": capabilities_document(),
        PROJECT / "docs" / "clauses.md": clauses_document(),
        PROJECT / "docs" / "operations.md": operations_document(),
        PROJECT / "docs" / "profiles.md": profiles_document(),
    }


def clauses(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[ID or PATTERN]...", help="MIG-012, 'MIG-1*'; default all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable, with every field")] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="write the documents made from the tables again")
    ] = False,
) -> None:
    """List the clauses of the contract; a clause named by its id is shown in full.

    In full: its text and source, the judges and experiments that check it, the seeded defects that break it
    (`vfiocert prove`), and what mainline's drivers are known to do.

    \b
    Examples:
      vfiocert clauses
      vfiocert clauses 'MIG-06*'
      vfiocert clauses MIG-107
    """
    if write_docs:
        if patterns or as_json:
            raise UsageError("--write-docs takes no clause and no --json: it writes the documents whole")
        published = PUBLISHED.read_text(encoding="utf-8")
        written = {**generated_documents(), PUBLISHED: publish(published, all_clauses())}
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(PROJECT))
        return
    chosen = select(patterns or ())
    if as_json:
        print(_as_json(chosen))
        return
    in_full = {p.upper() for p in patterns or () if not set(p) & set("*?[")}
    for clause in chosen:
        print(
            _in_full(clause)
            if clause.id in in_full
            else f"{clause.id}  {clause.level:<6}  {clause.statement}"
        )
