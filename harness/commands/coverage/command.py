# SPDX-License-Identifier: Apache-2.0
"""`vfiocert coverage`: the lines of the kernel's vfio, iommufd and mdev samples that the chapters reach."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fixtures.budget import parse_budget
from fixtures.connect import embedded_machine
from harness import PROJECT
from harness.commands.coverage.collect import Source
from harness.commands.coverage.figures import (
    FileFigure,
    annotate,
    compare,
    figures,
    load_reasons,
    load_saved,
    save,
    table,
)
from harness.commands.coverage.gather import Gatherer
from harness.errors import EXIT_CONFORMING, EXIT_NO_VERDICT, EXIT_NON_CONFORMING, HarnessError, UsageError
from harness.hosts.inventory import EMBEDDED, embedded_devices, select
from harness.hosts.inventory.models import Inventory
from harness.lab.embedded import attach
from harness.lab.kernel import KernelBuild
from harness.progress import Progress, open_progress
from harness.spec.clause import all_clauses

__all__ = ["coverage"]

_DOCUMENT = PROJECT / "docs" / "coverage.md"
_VERDICTS = (EXIT_CONFORMING, EXIT_NON_CONFORMING, EXIT_NO_VERDICT)
_CERTIFY_S = 6 * 3600.0


def coverage(
    device: Annotated[
        list[str] | None, typer.Option(help="embedded device; may be repeated [default: all]")
    ] = None,
    chapter: Annotated[
        list[str] | None, typer.Option(help="only this chapter, such as ACC; may be repeated")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="most time a device may take: 10m, 2h")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of every random choice")] = 1,
    workers: Annotated[int, typer.Option("-n", "--workers", min=1, max=64, help="labs at once")] = 1,
    kernel: Annotated[str | None, typer.Option(help="a series (7.2, 6.12)")] = None,
    of_lab: Annotated[
        str | None, typer.Option(help="run nothing: take the counters of this gcov lab, which is up")
    ] = None,
    compare_with: Annotated[
        Path | None, typer.Option("--compare", help="coverage.json of an earlier run")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder [default: runs/TIME-coverage]")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="write docs/coverage.md")] = False,
) -> None:
    """Run the chapters on a kernel that counts its lines, and say which lines they reached.

    \b
    Examples:
      vfiocert coverage
      vfiocert coverage --chapter ACC --device edu0 --compare runs/before/coverage.json
      vfiocert lab up mine --flavour gcov; (run your own tests in it); vfiocert coverage --of-lab mine

    Prints a table, and writes coverage.json, coverage.txt and annotated/ (each source with its counts).
    Exit status: 0 done, however much was reached; 3 the lab failed.
    """
    if budget is not None:
        parse_budget(budget)
    clauses = _chapters(chapter or [])
    devices = [
        t.device.id for t in select(Inventory(), EMBEDDED, device or [d.id for d in embedded_devices()])
    ]
    earlier = load_saved(compare_with) if compare_with else None
    reasons = load_reasons()
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-coverage"
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--out={folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with open_progress() as progress:
        if of_lab:
            build = attach(of_lab, own=False).kernel
            gatherer, bug = Gatherer([of_lab]), ""
            with gatherer:
                progress.step(f"reading the counters of lab {of_lab}")
        else:
            with embedded_machine(EMBEDDED, kernel, "gcov", progress, min(workers, len(devices))) as names:
                assert names is not None
                build = attach(names.split(",")[0], own=False).kernel
                gatherer = Gatherer(names.split(","))
                with gatherer:
                    bug = _certify(names, devices, clauses, seed, budget, folder / "run", progress)
        progress.step("running gcov")
        sources = gatherer.sources(build)
    assert build.source_tree is not None
    found = figures(sources, reasons, build.source_tree)
    name = f"{build.release} {build.key}"
    about = {
        "kernel": name, "devices": [] if of_lab else devices,
        "chapters": chapter or [], "seed": seed, "budget": budget, "seconds": round(time.monotonic() - begun),
    }  # fmt: skip
    save(folder / "coverage.json", sources, about, found)
    annotate(folder / "annotated", sources, reasons, build.source_tree)
    before, words = compare(earlier, sources, name) if earlier else (None, [])
    text = _text(found, before, [*words, *_lost(gatherer)])
    (folder / "coverage.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"in {folder}: coverage.json, coverage.txt, annotated/")
    if write_docs:
        _DOCUMENT.write_text(_document(found, sources, build), encoding="utf-8")
        print(f"wrote {_DOCUMENT.name}")
    if bug:
        raise HarnessError(bug)


def _chapters(names: Sequence[str]) -> list[str]:
    known = sorted({clause.chapter for clause in all_clauses()})
    for name in names:
        if name not in known:
            raise UsageError(f"--chapter={name} is not a chapter: {', '.join(known)}")
    return [f"{name}-*" for name in names]


def _certify(
    labs: str,
    devices: Sequence[str],
    clauses: Sequence[str],
    seed: int,
    budget: str | None,
    out: Path,
    progress: Progress,
) -> str:
    """Run `vfiocert certify` in a separate process; return a remark if it ended in a bug of the suite."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "certify",
        "--seed",
        str(seed),
        *(["--budget", budget] if budget else []),
        "--out",
        str(out),
    ]
    for name in devices:
        command += ["--device", name]
    for clause in clauses:
        command += ["--clause", clause]
    command += ["-n", str(len(labs.split(",")))]
    progress.step(f"certifying {len(devices)} devices; its log is {out.parent}/certify.log")
    with (out.parent / "certify.log").open("wb") as log:
        done = subprocess.run(
            command, env={**os.environ, "VFIOCERT_LAB_NAME": labs}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, timeout=_CERTIFY_S, check=False,
            cwd=PROJECT,
        )  # fmt: skip
    if done.returncode in _VERDICTS:
        return ""
    if not (out / "run.json").is_file():
        last = (out.parent / "certify.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise HarnessError(
            f"certify ended with status {done.returncode}: {last[-1] if last else 'no output'}"
        )
    return f"certify ended with status {done.returncode}, see certify.log: what did not run is not counted"


def _lost(gatherer: Gatherer) -> list[str]:
    return [
        f"lab {name} was restarted: the last seconds before that are not counted" for name in gatherer.lost
    ]


def _text(found: Sequence[FileFigure], before: dict[str, float] | None, words: Sequence[str]) -> str:
    rows = table(found, before)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), *words])


def _document(found: Sequence[FileFigure], sources: dict[str, Source], build: KernelBuild) -> str:
    rows = table(found)
    lines = [
        "# Lines of the kernel that the suite reaches",
        "",
        f"Linux {build.release}, every chapter and embedded device: `./vfiocert coverage --write-docs`.",
        "`!` marks a target that is missed. *selftests*: the kernel's own, on the same lab and kernel.",
        "Lines that cannot be reached there have their reason in",
        "[coverage-unreached.yaml](coverage-unreached.yaml).",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(row) + " |" for row in rows[1:]),
        "",
    ]
    total = sum(len(source.lines) for source in sources.values())
    lines.append(f"{total} lines with code were counted, headers included.")
    return "\n".join(lines) + "\n"
