# SPDX-License-Identifier: Apache-2.0
"""`vfiocert replay`: run the program of a saved finding again and judge it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from fixtures.connect import embedded_machine, open_rig
from harness.errors import EXIT_CONFORMING, EXIT_NON_CONFORMING, UsageError
from harness.hosts.inventory import EMBEDDED
from harness.progress import open_progress
from reports.listing import program_lines
from reports.models import SavedFinding

__all__ = ["load_finding", "replay"]

_MAX_BYTES = 64 << 20


def load_finding(path: Path) -> SavedFinding:
    """Load the finding saved in `path`; UsageError, naming the wrong field, if it is not one."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; findings are in RUN/findings/*.json") from None
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes: not a finding")
    try:
        # Not with pydantic's JSON reader, which refuses the lone surrogates that a trace may hold.
        return SavedFinding.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path}: {where}: {first['msg']}; findings are in RUN/findings/*.json") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not JSON; findings are in RUN/findings/*.json") from None


def replay(
    file: Annotated[Path, typer.Argument(help="a finding: RUN/findings/NAME.json")],
    lab: Annotated[str, typer.Option(help="lab of labs.yaml, or 'embedded'")] = EMBEDDED,
    device: Annotated[str | None, typer.Option(help="device id [default: the one of the finding]")] = None,
    times: Annotated[int, typer.Option(min=1, max=1000, help="how often to run it")] = 3,
    kernel: Annotated[str | None, typer.Option(help="embedded lab: a series or a built tree")] = None,
    flavour: Annotated[str, typer.Option(help="embedded lab: plain or debug")] = "plain",
    labs_file: Annotated[Path | None, typer.Option(help="inventory [default: labs.yaml]")] = None,
) -> None:
    """Run the program of a finding again, on the same or another device, and judge it.

    \b
    Examples:
      vfiocert replay runs/nightly/findings/mtty0-MIG-107-1a2b3c4d.json
      vfiocert replay FINDING.json --lab rack7 --device cx7-vf0 --times 100

    Exit status: 1 the finding came back, 0 it did not, 3 the lab failed.
    """
    finding = load_finding(file)
    program = finding.program
    for line in program_lines(program, 60):
        print(line)
    clause, hits = finding.clause, 0
    others: set[str] = set()
    observed = "no violation"
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vfiocert-replay-"))
        progress = open_progress()
        stack.enter_context(progress)
        lab_name = stack.enter_context(embedded_machine(lab, kernel, flavour, progress))
        rig = open_rig(lab, lab_name, device or finding.device, 0, Path(scratch), labs_file, [])
        stack.callback(rig.drop)
        for _ in range(times):
            with rig.test("replay"):
                verdict, trace = rig.execute(program, own=finding.own)
                rig.read_log(program, trace)
            broken = (*verdict.violations, *rig.total.violations)
            hits += any(v.clause == clause for v in broken)
            others |= {v.clause for v in broken} - {clause}
            observed = next((v.observed for v in broken if v.clause == clause), observed)
    print(f"{clause}: {hits} of {times} runs; expected {finding.expected}; observed {observed}")
    if others:
        print(f"other clauses broken: {', '.join(sorted(others))}")
    raise typer.Exit(EXIT_NON_CONFORMING if hits else EXIT_CONFORMING)
