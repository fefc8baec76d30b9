# SPDX-License-Identifier: Apache-2.0
"""`vfiocert prove`: every seeded defect must be caught, and no golden device accused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, get_args

import typer

from harness import PROJECT
from harness.commands.prove.core import patched_driver, patched_modules
from harness.commands.prove.defects import (
    CORE,
    Defect,
    catalogue,
    check_defects,
    select_defects,
    variant_defects,
)
from harness.commands.prove.matrix import Matrix, build_matrix
from harness.commands.prove.pool import Pool
from harness.commands.prove.render import markdown, page, text_table, with_summary
from harness.commands.prove.result import Result, result_from_json
from harness.commands.prove.trial import Job, Mode
from harness.errors import (
    EXIT_CONFORMING,
    EXIT_NO_VERDICT,
    EXIT_NON_CONFORMING,
    HarnessError,
    LabError,
    UsageError,
)
from harness.hosts.inventory import embedded_devices, embedded_variants
from harness.lab.kernel import KernelBuild, obtain_kernel
from harness.progress import Progress, open_progress

__all__ = ["prove"]

_RESULTS = "results.jsonl"
_ELAPSED = "seconds.txt"
_GOLDEN_LIMIT_S = 180.0
_DEBUG_LIMIT = 6.0
"""How much longer a trial may take on the debug kernel."""


def prove(
    defect: Annotated[
        list[str] | None,
        typer.Option(help="only defects NAME, MODULE:NAME or of a clause; a pattern; may be repeated"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="try each defect with this many seeds")] = 1,
    golden: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10000,
            help="runs without defect, over all devices  [default: one of each with defects]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="the first seed")] = 1,
    flavour: Annotated[
        str | None,
        typer.Option(help="only this flavour of the lab's kernel: plain or debug  [default: both]"),
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, max=64, help="labs at once")] = 2,
    limit: Annotated[float, typer.Option(min=5, max=3600, help="seconds a trial may take")] = 60.0,
    tests: Annotated[
        str, typer.Option(help="what runs on a defect that is caught: catch, named, chapter or all tests")
    ] = "named",
    out: Annotated[Path | None, typer.Option(help="folder of the run  [default: runs/TIME-proof]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="write docs/proof.md and the README's line")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="only list the defects")] = False,
) -> None:
    """Seed every known defect, one at a time on a fresh lab, and say what catches it and how fast.

    \b
    Examples:
      vfiocert prove
      vfiocert prove --defect 'core:*' --seeds 10
      vfiocert prove --golden 100 --defect MIG-058
      vfiocert prove --out runs/proof --resume

    Exit status: 0 all caught and no false alarm, 1 otherwise, 3 the lab failed.
    """
    known = catalogue()
    chosen = select_defects((*known, *variant_defects(known, embedded_variants())), defect or [])
    if flavour not in (None, "plain", "debug"):
        raise UsageError(f"--flavour={flavour!r} is not plain or debug")
    if tests not in get_args(Mode):
        raise UsageError(f"--tests={tests!r} is not one of {', '.join(get_args(Mode))}")
    chosen = tuple(d for d in chosen if flavour in (None, d.flavour))
    if list_only:
        for d in chosen:
            print(f"{d.name:36} {d.clause}  {d.module} on {d.device}: {d.text}")
        return
    check_defects(chosen)
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-proof"
    results = _kept(folder, resume, chosen)
    interrupted = 0
    took: list[float] = []
    try:
        with _terminable(), (folder / _RESULTS).open("a") as file:
            for result in _results(
                chosen, results, seeds, golden, seed, flavour, jobs, limit, tests, folder, took
            ):
                results.append(result)
                file.write(json.dumps(result.as_json()) + "\n")
                file.flush()
    except KeyboardInterrupt as stop:
        interrupted = int(str(stop) or signal.SIGINT)
    matrix = build_matrix(chosen, results, _elapsed(folder, sum(took)))
    _write(matrix, folder, write_docs and not interrupted)
    print(text_table(matrix))
    print(f"reports in {folder}: proof.html, proof.md, proof.json")
    if interrupted:
        raise typer.Exit(128 + interrupted)
    if matrix.bugs:
        raise HarnessError(f"{len(matrix.bugs)} trials ended in a bug of the suite, first: {matrix.bugs[0]}")
    raise typer.Exit(_status(matrix))


def _elapsed(folder: Path, seconds: float) -> float:
    """Seconds that the trials of this run took, including those before `--resume`."""
    path = folder / _ELAPSED
    with contextlib.suppress(OSError, ValueError):
        seconds += float(path.read_text(encoding="ascii"))
    path.write_text(f"{seconds:.1f}\n", encoding="ascii")
    return seconds


def _status(matrix: Matrix) -> int:
    counts = matrix.counts()
    if matrix.alarms or counts["missed"] or matrix.unsteady:
        return EXIT_NON_CONFORMING
    return EXIT_NO_VERDICT if counts["undecided"] or matrix.golden_faults else EXIT_CONFORMING


def _kept(folder: Path, resume: bool, chosen: Sequence[Defect]) -> list[Result]:
    """The results that a run in `folder` already has; the folder is made if missing."""
    path = folder / _RESULTS
    if path.exists() and not resume:
        raise UsageError(f"--out={folder} has a proof already; add --resume, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={folder} cannot be made: {error.strerror}") from None
    kept: list[Result] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn when that run was cut off
            result = result_from_json(json.loads(line))
            kept.append(result)
    broken = {d.name: d.clause for d in chosen}

    def final(result: Result) -> bool:
        """Whether a result is final; one that the lab, its limit or a bug ended uncaught is tried again."""
        caught = broken.get(result.subject) in {s.clause for s in result.seen}
        return caught or (result.why in ("done", "caught") and not result.bugs)

    return [r for r in kept if final(r)]


def _results(
    chosen: Sequence[Defect],
    kept: Sequence[Result],
    seeds: int,
    golden: int | None,
    seed: int,
    flavour: str | None,
    size: int,
    limit: float,
    tests: str,
    folder: Path,
    took: list[float],
) -> Iterator[Result]:
    """Run the trials that are left, flavour by flavour, and yield their results.

    `took` gets the seconds of each flavour, from the first lab to the last; building kernels and modules,
    which is done once, does not count.
    """
    done = {result.job for result in kept}
    for kind in ("plain", "debug"):
        if flavour not in (None, kind):
            continue
        mine = [d for d in chosen if d.flavour == kind]
        wanted = [
            *_golden_jobs(chosen, golden, seed, kind, limit, asked=flavour == kind),
            *_defect_jobs(mine, seeds, seed, kind, limit, tests),
        ]
        todo = [job for job in wanted if job.name not in done]
        if not todo:
            continue
        with open_progress() as progress:
            kernel = obtain_kernel(None, kind, progress)
            todo = [_seeded(job, kernel, progress) for job in todo]
            variants = embedded_variants()
            scratch = max(variants[j.device].scratch_gib if j.device in variants else 0 for j in todo)
            pool = Pool(min(size, len(todo)), kind, folder, progress, scratch)
        count, begun = 0, time.monotonic()
        try:
            with pool:
                for result in pool.run(todo):
                    count += 1
                    print(f"[{count}/{len(todo)}] {_line(result, chosen)}", flush=True)
                    yield result
        finally:
            took.append(time.monotonic() - begun)


def _defect_jobs(
    defects: Sequence[Defect], seeds: int, seed: int, kind: str, limit: float, tests: str
) -> list[Job]:
    mode: Mode = next(m for m in get_args(Mode) if m == tests)
    factor = _DEBUG_LIMIT if kind == "debug" else 1.0
    return [
        _fitted(Job(d.device, seed + n, d, mode if n == 0 else "catch", limit_s=limit * factor, flavour=kind))
        for n in range(seeds)
        for d in defects
    ]


def _fitted(job: Job) -> Job:
    """The job with what a variant wants: its chapters, depth, budget and time, and its catch is enough."""
    variant = embedded_variants().get(job.device)
    if variant is None:
        return job
    return replace(
        job, mode="catch" if job.defect else job.mode, limit_s=max(job.limit_s, variant.limit_s),
        chapters=variant.chapters, clauses=() if job.defect else variant.clauses, depth=variant.depth,
        budget=variant.budget,
    )  # fmt: skip


def _golden_jobs(
    chosen: Sequence[Defect], golden: int | None, seed: int, kind: str, limit: float, *, asked: bool
) -> list[Job]:
    """The runs without a defect: one for each device that has defects, or `golden` over all embedded devices.

    On the debug kernel, which is slow, only the reference devices, and only if that flavour was asked for.
    """
    used = {d.device for d in chosen if d.flavour == kind}
    reference = [d.id for d in embedded_devices() if d.profile in ("vfiocert_ref", "edu_vfio_pci")]
    if kind == "debug":
        devices = reference if asked else []
    elif golden:
        devices = [*(d.id for d in embedded_devices()), *embedded_variants()]
    else:
        devices = [d.id for d in embedded_devices() if d.id in (*reference, *used)]
        devices += [name for name in embedded_variants() if name in used]
    factor = _DEBUG_LIMIT if kind == "debug" else 1.0
    if golden is None:
        runs = [(device, seed) for device in devices]
    else:
        runs = [(devices[n % len(devices)], seed + n) for n in range(golden if devices else 0)]
    return [_fitted(Job(device, at, limit_s=_GOLDEN_LIMIT_S * factor, flavour=kind)) for device, at in runs]


def _seeded(job: Job, kernel: KernelBuild, progress: Progress) -> Job:
    """The job with what its defect puts into the lab, built once, before any lab is up."""
    if job.defect is None:
        return job
    if job.defect.patch is None:
        return replace(job, seeding=(f"{job.defect.module}={job.defect.knob or job.defect.name}",))
    if job.defect.module != CORE:
        driver = patched_driver(kernel, job.defect.module, job.defect.patch, progress)
        return replace(job, seeding=(str(driver),))
    built = patched_modules(kernel, job.defect.patch, progress)
    return replace(job, seeding=tuple(str(path) for path in built))


def _line(result: Result, defects: Sequence[Defect]) -> str:
    if result.golden:
        said = ", ".join(s.clause for s in result.seen) or "no finding"
        return f"{result.device}, seed {result.seed}, without defect: {said}; {result.seconds:.1f} s"
    defect = next(d for d in defects if d.name == result.subject)
    caught = result.caught_by()
    mine = next((s for s in caught if s.clause == defect.clause), None)
    if mine is not None:
        said = f"{defect.clause} after {mine.seconds:.1f} s, {mine.programs} programs"
    elif result.lab_fault:
        said = f"no verdict: {result.faults[-1] if result.faults else '?'}"
    else:
        others = ", ".join(s.clause for s in caught[:4]) or "nothing"
        said = f"NOT CAUGHT by {defect.clause}; by {others}"
    return f"{result.subject}, seed {result.seed}: {said} (trial {result.seconds:.1f} s)"


def _write(matrix: Matrix, folder: Path, docs: bool) -> None:
    files = {
        folder / "proof.json": json.dumps(matrix.as_json(), indent=1) + "\n",
        folder / "proof.md": markdown(matrix),
        folder / "proof.html": page(matrix),
    }
    if docs:
        readme = PROJECT / "README.md"
        files[PROJECT / "docs" / "proof.md"] = markdown(matrix)
        files[readme] = with_summary(readme.read_text(encoding="utf-8"), matrix.summary() + ".")
    for path, text in files.items():
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LabError(f"{path}: {error.strerror}; free space and run again with --resume") from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run like Ctrl-C, which keeps what was finished."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(str(number))

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
