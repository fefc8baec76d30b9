# SPDX-License-Identifier: Apache-2.0
"""`vfiocert report DIR`: write the reports of a finished run again, from its run.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.formats.summary import print_summary
from reports.render import render_all
from reports.writer import read_run

__all__ = ["report"]


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="the folder that certify wrote (its --out)")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="write the files, print nothing")] = False,
) -> None:
    """Write the reports of a finished run again, and print its summary; needs no lab."""
    run = read_run(run_dir)
    render_all(run, run_dir)
    if not quiet:
        print_summary(run, str(run_dir))
