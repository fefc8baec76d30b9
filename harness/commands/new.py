# SPDX-License-Identifier: Apache-2.0
"""`vfiocert new clause` and `new profile`: add a stub that passes the checks, and print what to do next."""

from __future__ import annotations

import ast
import datetime
import importlib
import json
import keyword
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import harness.spec.clauses
from harness import PROJECT
from harness.errors import UsageError
from harness.profiles import profile_names
from harness.spec.clause import all_clauses

__all__ = ["app", "chapter_file", "clause_entry", "insert_clause", "profile_source"]

_PIECE = 90
"""The longest piece of a string in one line of source, in characters."""

PROJECT_OPTION_HELP = "the project's folder (default: this one)"
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


class Level(StrEnum):
    """How binding a clause is; only a broken MUST makes a device non-conforming."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Bus(StrEnum):
    """The bus of a driver's devices."""

    pci = "pci"
    mdev = "mdev"


@app.callback()
def _new() -> None:
    """Start a new clause or a new driver profile."""


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def insert_clause(source: str, entry: str) -> str:
    """Return the text of a chapter's file with `entry` added at the end of its tuple `CLAUSES`.

    UsageError if the file has no such tuple that ends on its own line.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            target: ast.expr = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        else:
            continue
        if isinstance(target, ast.Name) and target.id == "CLAUSES" and isinstance(node.value, ast.Tuple):
            lines = source.splitlines(keepends=True)
            last = (node.value.end_lineno or 0) - 1
            if lines[last].strip().partition("#")[0].rstrip() == ")":
                return "".join([*lines[:last], entry, *lines[last:]])
    raise UsageError("the chapter's file has no tuple 'CLAUSES = (' that ends with ')' on its own line")


def chapter_file(id: str) -> str:
    """The file in harness/spec/clauses/ for a new clause: the one with the nearest lower id.

    UsageError for an unknown chapter.
    """
    chapter, _, number = id.partition("-")
    below: list[tuple[int, str]] = []
    for _, name, _ in pkgutil.iter_modules(harness.spec.clauses.__path__):
        for clause in importlib.import_module(f"harness.spec.clauses.{name}").CLAUSES:
            if clause.chapter == chapter:
                distance = int(number) - int(clause.id.partition("-")[2])
                below.append((distance if distance > 0 else 1000 - distance, name))
    if not below:
        chapters = ", ".join(sorted({c.chapter for c in all_clauses()}))
        raise UsageError(f"ID='{id}': there is no chapter {chapter} ({chapters})")
    return min(below)[1]


def clause_entry(id: str, level: str, statement: str, source: str, needs: Sequence[str], since: str) -> str:
    """The text of a new clause in a tuple."""
    wanted = ", ".join(map(_string, needs)) + "," * (len(needs) == 1)
    today = f"new on {datetime.date.today().isoformat()}: no experiment yet"
    return (
        f"    Clause(\n        {_string(id)},\n        {_string(level)},\n"
        f"        {_wrapped(statement)},\n        {_wrapped(source)},\n        ({wanted}),\n"
        f"        {_string(since)},\n        untested={_string(today)},\n    ),\n"
    )


def _wrapped(text: str) -> str:
    """A string literal, split if it is longer than a line of source."""
    pieces = textwrap.wrap(text, _PIECE, drop_whitespace=False, break_on_hyphens=False) or [""]
    return "\n        ".join(map(_string, pieces))


@app.command("clause")
def clause(
    id: Annotated[str, typer.Argument(metavar="ID", help="chapter and number, not used before: MIG-170")],
    statement: Annotated[str, typer.Argument(help="one sentence, in our own words, that can be wrong")],
    source: Annotated[str, typer.Option("--source", help="file and paragraph, or commit, that says so")],
    level: Annotated[Level, typer.Option("--level", help="how binding it is")] = Level.MUST,
    needs: Annotated[
        list[str] | None,
        typer.Option("--needs", help="capability the device must have (repeatable)"),
    ] = None,
    since: Annotated[str, typer.Option("--since", help="kernel version, for the reader")] = "v5.18",
    project: Annotated[
        Path, typer.Option("--project", show_default=False, help=PROJECT_OPTION_HELP)
    ] = PROJECT,
) -> None:
    """Add a clause to its chapter, marked as untested until an experiment checks it."""
    known = all_clauses()
    if not re.fullmatch(r"[A-Z]{3,5}-\d{3}", id):
        raise UsageError(f"ID='{id}' is not three to five capitals, a hyphen and three digits, like MIG-170")
    chapter = id.partition("-")[0]
    if any(c.id == id for c in known):
        free = max(int(c.id.partition("-")[2]) for c in known if c.chapter == chapter) + 1
        raise UsageError(
            f"ID='{id}' is taken, and ids are never reused; free: {chapter}-{free:03d} and above"
        )
    path = project / "harness" / "spec" / "clauses" / f"{chapter_file(id)}.py"
    entry = clause_entry(id, level.value, statement, source, needs or (), since)
    path.write_text(insert_clause(path.read_text(encoding="utf-8"), entry), encoding="utf-8")
    _finish(project, path)
    print(f"{path}: {id} added")
    print(
        f"next: write the experiment in suites/{chapter.lower()}/ and remove 'untested'; name a broken device"
    )
    print("      that it catches; then ./vfiocert clauses --write-docs and ./vfiocert check --fast")


def _finish(project: Path, path: Path) -> None:
    """Format the changed file, and write the generated documents again in a new process."""
    for command in (["ruff", "format", "-q", str(path)], ["harness", "clauses", "--write-docs"]):
        subprocess.run(
            [sys.executable, "-P", "-m", *command], cwd=project, check=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(project)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def profile_source(module: str, driver: str, bus: str, description: str, does_dma: bool, source: str) -> str:
    """The text of a new profile's file."""
    return f'''# SPDX-License-Identifier: Apache-2.0
"""{description[:1].upper() + description[1:]} ({source})."""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module={_string(module)},
    driver={_string(driver)},
    description={_string(description)},
    does_dma={does_dma},
    bus={_string(bus)},
    source={_string(source)},
)
'''


@app.command("profile")
def profile(
    module: Annotated[
        str, typer.Argument(metavar="MODULE", help="the kernel module's name, with underscores")
    ],
    description: Annotated[str, typer.Option("--description", help="what the device is, in a few words")],
    source: Annotated[
        str, typer.Option("--source", help="where the driver is: a path in the kernel, a project")
    ],
    driver: Annotated[
        str, typer.Option("--driver", help="name under /sys/bus/*/drivers (default: the module's name)")
    ] = "",
    bus: Annotated[Bus, typer.Option("--bus", help="the bus its devices are on")] = Bus.pci,
    dma: Annotated[bool, typer.Option("--dma/--no-dma", help="whether the device does DMA")] = True,
    project: Annotated[
        Path, typer.Option("--project", show_default=False, help=PROJECT_OPTION_HELP)
    ] = PROJECT,
) -> None:
    """Start the profile of a driver: one new file, nothing else to edit."""
    name = module.replace("-", "_")
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise UsageError(
            f"MODULE='{module}' is not the name of a kernel module: letters, digits, underscores"
        )
    if '"""' in description + source or "\\" in description + source or "\n" in description + source:
        raise UsageError("--description and --source are one line each, without backslash and triple quotes")
    path = project / "harness" / "profiles" / f"{name}.py"
    if path.exists() or name in profile_names():
        raise UsageError(f"MODULE='{module}': {path} is there already")
    if not path.parent.is_dir():
        raise UsageError(f"--project='{project}' is not this project: no folder {path.parent}")
    path.write_text(
        profile_source(name, driver or module, bus.value, description, dma, source), encoding="utf-8"
    )
    _finish(project, path)
    print(f"{path}: written")
    print(
        "next: say where migrated state shows (state_regions, mutate) and how the device fails (error_hooks);"
    )
    print("      then ./vfiocert check --fast")
