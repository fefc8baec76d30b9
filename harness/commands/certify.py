# SPDX-License-Identifier: Apache-2.0
"""`vfiocert certify`: run the chapters on devices and write the verdict; a thin wrapper around pytest."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from fixtures.budget import parse_budget
from fixtures.connect import inventory_of
from harness.commands.certification import run_pytest, suite_arguments
from harness.errors import (
    EXIT_CONFORMING,
    EXIT_NO_VERDICT,
    EXIT_NON_CONFORMING,
    HarnessError,
    UsageError,
    VfiocertError,
)
from harness.hosts.inventory import EMBEDDED, select
from harness.progress import open_progress
from harness.spec.clause import all_clauses, matching
from reports.formats.summary import print_summary
from reports.writer import ALLURE

__all__ = ["certify"]

_EXITS = {
    "conforming": EXIT_CONFORMING,
    "non-conforming": EXIT_NON_CONFORMING,
    "inconclusive": EXIT_NO_VERDICT,
}


def _workers(lab: str) -> int:
    """The default number of devices at once: 1 on a host that is not ours, so that we do not load it unasked.

    On the embedded lab, one more than the processors, because resets are mostly waiting: 297 s for all
    devices on two processors, where two at once took 345 s.
    """
    if lab != EMBEDDED:
        return 1
    given = os.environ.get("VFIOCERT_LAB_NAME", "")
    return len(given.split(",")) if given else len(os.sched_getaffinity(0)) + 1


def certify(
    lab: Annotated[str, typer.Option(help="lab of labs.yaml, or 'embedded'")] = EMBEDDED,
    device: Annotated[
        list[str] | None,
        typer.Option(help="device id; may be repeated  [default: all of the lab but modelled ones]"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="embedded lab: also the kernel's own drivers over modelled silicon")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="most time a device may take: 90s, 10m, 2h  [default: as long as it needs]"),
    ] = None,
    search_time: Annotated[
        str, typer.Option(help="time to aim at for random programs and long sequences of a device")
    ] = "2m",
    depth: Annotated[int, typer.Option(min=1, max=7, help="length of the exhaustive sequences, at most")] = 5,
    kernel: Annotated[
        str | None, typer.Option(help="embedded lab: a series (7.2, 6.12) or a built tree")
    ] = None,
    flavour: Annotated[
        str, typer.Option(help="embedded lab: plain, or debug (KASAN, lockdep, UBSAN)")
    ] = "plain",
    module: Annotated[
        list[Path] | None, typer.Option(help="FILE.ko that replaces a module; may be repeated")
    ] = None,
    clause: Annotated[list[str] | None, typer.Option(help="only clauses matching, e.g. 'MIG-03*'")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run [default: runs/TIME-LAB]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--workers",
            min=1,
            max=64,
            help="devices at once  [default: embedded lab: CPUs + 1, each with its own machine; else 1]",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="seed of every random choice [default: random]")
    ] = None,
    labs_file: Annotated[Path | None, typer.Option(help="inventory [default: labs.yaml]")] = None,
) -> None:
    """Certify devices: run every chapter, write the verdict and its reports.

    \b
    Examples:
      vfiocert certify
      vfiocert certify --all
      vfiocert certify --device mtty0
      vfiocert certify --lab mylab --device cx7-vf0 --budget 10m
      vfiocert certify --flavour debug --clause 'MIG-10*'
      vfiocert certify --out runs/nightly --resume

    Exit status: 0 conforming, 1 non-conforming, 3 no verdict (the lab failed).
    """
    if budget is not None:
        parse_budget(budget)
    parse_budget(search_time, "--search-time")
    if everything and (device or lab != EMBEDDED):
        raise UsageError("--all means every device of the embedded lab; leave --device and --lab out")
    targets = select(inventory_of(labs_file, lab), lab, device or [])
    if not device and not everything:  # the modelled ones take longer than all the others together
        targets = tuple(t for t in targets if t.device.modelled is None)
    clauses = matching(tuple(clause or ()))
    if not clauses:
        first, last = all_clauses()[0].id, all_clauses()[-1].id
        raise UsageError(
            f"--clause={' '.join(clause or ())!r} matches no clause; they are {first} to {last}, "
            "see 'vfiocert clauses'"
        )
    for file in module or ():
        if not file.is_file():
            raise UsageError(f"--module={file}: no such file; name a built FILE.ko")
    if lab != EMBEDDED and (kernel or flavour != "plain"):
        raise UsageError("--kernel and --flavour choose the embedded lab's kernel; leave them out with --lab")
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{lab}"
    args = suite_arguments(
        [t.device.id for t in targets],
        folder,
        lab=lab,
        depth=depth,
        budget=budget,
        search_time=search_time,
        seed=seed,
        allure=True,
    )
    args += [f"--clause={glob}" for glob in clause or ()]
    args += [f"--module={file.resolve()}" for file in module or ()]
    args += ["--resume"] if resume else []
    args += [f"--flavour={flavour}", *([f"--kernel={kernel}"] if kernel else [])]
    args += [f"--labs-file={labs_file.resolve()}"] if labs_file else []
    try:  # allure-pytest makes it too, but reports a failure as a traceback
        (folder / ALLURE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={folder}: {error.strerror}; name a folder that can be made") from None
    try:
        with open_progress() as progress:
            run = run_pytest(args, min(workers or _workers(lab), len(targets)), len(targets), progress)
    except VfiocertError:
        with contextlib.suppress(OSError):  # a run that could not begin leaves nothing behind
            (folder / ALLURE).rmdir()
        raise
    print_summary(run.run, str(folder))
    if run.bugs:
        raise HarnessError(
            f"{len(run.bugs)} tests ended in a bug of the suite, first: {run.bugs[0]}; "
            f"see {folder}/harness-errors.txt"
        )
    if run.interrupted:
        raise typer.Exit(128 + run.interrupted)
    raise typer.Exit(_EXITS[run.run.verdict])
