# SPDX-License-Identifier: Apache-2.0
"""`vfiocert new clause` and `vfiocert new profile`: a start that passes the checks, and what to do next."""

from __future__ import annotations

import ast
import datetime
import json
import keyword
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness import PROJECT
from harness.errors import UsageError
from harness.profiles import profile_names
from harness.spec.clause import all_clauses

__all__ = ["app", "insert_clause", "profile_source"]

PROJECT_OPTION_HELP = "the project's folder (default: this one)"
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


class Level(StrEnum):
    """How binding a clause is; only a MUST that is broken makes a device non-conforming."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Bus(StrEnum):
    """The bus a driver's devices are on."""

    pci = "pci"
    mdev = "mdev"


@app.callback()
def _new() -> None:
    """Start a new clause or a new driver profile."""


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def insert_clause(source: str, entry: str) -> str:
    """The text of a chapter's file with `entry` as last item of its tuple `CLAUSES`.

    UsageError where the file has no such tuple that ends on a line of its own.
    """
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id == "CLAUSES" and isinstance(node.value, ast.Tuple):
            lines = source.splitlines(keepends=True)
            last = (node.value.end_lineno or 0) - 1
            if lines[last].strip() == ")":
                return "".join([*lines[:last], entry, *lines[last:]])
    raise UsageError("the chapter's file has no tuple 'CLAUSES: ... = (' that ends with ')' on its own line")


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
    """Add a clause to its chapter, marked as untested until an experiment holds it."""
    known = all_clauses()
    if not re.fullmatch(r"[A-Z]{3}-\d{3}", id):
        raise UsageError(f"ID='{id}' is not three capitals, a hyphen and three digits, like MIG-170")
    if any(c.id == id for c in known):
        free = max(int(c.id[4:]) for c in known if c.chapter == id[:3]) + 1
        raise UsageError(f"ID='{id}' is taken, and ids are never reused; free: {id[:3]}-{free:03d} and above")
    path = project / "harness" / "spec" / "clauses" / f"{id.partition('-')[0].lower()}.py"
    if not path.is_file():
        chapters = ", ".join(sorted({c.chapter for c in known}))
        raise UsageError(f"ID='{id}': there is no chapter {id[:3]} ({chapters}); no file {path}")
    wanted = tuple(needs or ())
    capabilities = "(" + "".join(f"{_string(n)}, " for n in wanted).rstrip() + ")"
    entry = (
        "    Clause(\n"
        f"        {_string(id)},\n        {_string(level.value)},\n        {_string(statement)},\n"
        f"        {_string(source)},\n        {capabilities},\n        {_string(since)},\n"
        f"        untested={_string(f'new on {datetime.date.today().isoformat()}: no experiment yet')},\n"
        "    ),\n"
    )
    path.write_text(insert_clause(path.read_text(encoding="utf-8"), entry), encoding="utf-8")
    print(f"{path}: {id} added")
    print(
        f"next: write the experiment in suites/{id[:3].lower()}/ and remove 'untested'; name a broken device"
    )
    print("      that it catches; then ./vfiocert clauses --write-docs and ./vfiocert check --fast")


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
    print(f"{path}: written")
    print(
        "next: say where migrated state shows (state_regions, mutate) and how the device fails (error_hooks);"
    )
    print("      then ./vfiocert clauses --write-docs and ./vfiocert check --fast")
