# SPDX-License-Identifier: Apache-2.0
"""The matrix as text for a terminal, as a page of the docs, and as one HTML file."""

from __future__ import annotations

import html
from collections.abc import Iterable

from harness.commands.prove.known import KNOWN_OF_MAINLINE
from harness.commands.prove.matrix import Matrix, MatrixRow
from harness.errors import UsageError
from harness.spec.clause import by_id

__all__ = ["README_MARK", "markdown", "page", "text_table", "with_summary"]

README_MARK = ("<!-- proof -->", "<!-- /proof -->")
_WORDS = """\
Each line is a driver, or a piece of the kernel's VFIO core, with one rule broken on purpose, the way an
author plausibly breaks it. Every trial starts from the lab's snapshot, with the budget of `certify`. The
tests that name the broken clause come first; what they do not catch meets all the others (`--tests chapter`
goes on to the end of the chapter, `--tests all` runs everything in the order of `certify`). *s* counts from
the fresh lab (connecting and probing included) to the first violation of the broken clause, *programs* were
run until then, and *seeds* are the trials in which that clause caught the defect.
""".splitlines()
COMMAND = "./vfiocert prove --write-docs"
_SYMBOLS = {"caught": "✓", "elsewhere": "~", "missed": "✗", "undecided": "?"}
_SHOWN = 120
_HEAD = ("defect", "where", "breaks", "caught by", "s", "programs", "seeds")


def _cells(row: MatrixRow) -> tuple[str, ...]:
    others = [s.clause for s in row.caught_by if s.clause != row.defect.clause]
    mine = [row.defect.clause] if row.caught_seeds else []
    seeds = len(row.caught_seeds) + len(row.missed_seeds)
    shown = [*mine, *others[:4], *([f"+{len(others) - 4}"] if len(others) > 4 else [])]
    return (
        row.defect.name,
        f"{row.defect.module} on {row.defect.device}",
        row.defect.clause,
        ", ".join(shown) or row.verdict,
        "-" if row.seconds is None else f"{row.seconds:.1f}",
        "-" if row.programs is None else str(row.programs),
        f"{len(row.caught_seeds)}/{seeds}",
    )


def text_table(matrix: Matrix) -> str:
    """The command's closing output: the table, the exceptions in words, the summary."""
    rows = [(_SYMBOLS[r.verdict], *_cells(r)) for r in matrix.rows]
    head = ("", *_HEAD)
    widths = [max(len(line[n]) for line in [head, *rows]) for n in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in [head, *rows]
    ]
    for row in matrix.rows:
        if row.verdict == "elsewhere" and row.first is not None:
            lines.append(f"~ {row.defect.name}: {row.defect.clause} did not catch it; {_first(row)}")
        elif row.verdict == "undecided":
            why = row.notes[0] if row.notes else "it was not tried"
            lines.append(f"? {row.defect.name}: no verdict: {why}")
        elif row.verdict != "caught" or row.missed_seeds:
            seeds = f" with seed {', '.join(map(str, row.missed_seeds[:10]))}" if row.missed_seeds else ""
            lines.append(f"✗ {row.defect.name}: {row.defect.clause} did not catch it{seeds}")
            lines += [f"    {note}" for note in row.notes[:3]]
    for alarm in matrix.alarms:
        seen = alarm.seen
        lines.append(
            f"✗ false alarm: {alarm.device}, seed {alarm.seed}: {seen.clause} in {seen.test}: "
            f"expected {_short(seen.expected)}, observed {_short(seen.observed)}"
        )
    lines += [f"? {fault}" for fault in matrix.golden_faults]
    return "\n".join([*lines, "", matrix.summary()])


def _first(row: MatrixRow) -> str:
    first = row.first
    assert first is not None
    return f"{first.clause} did: expected {_short(first.expected)}, observed {_short(first.observed)}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def markdown(matrix: Matrix) -> str:
    """The page docs/proof.md."""
    runs = ", ".join(f"{device} {count}" for device, count in sorted(matrix.golden_runs.items())) or "none"
    times = sorted(r.seconds for r in matrix.rows if r.seconds is not None)
    worst = f", slowest {times[-1]:.1f} s" if times else ""
    out = [
        "# Proof", "",
        f"Written by `{COMMAND}`; do not edit.", "",
        f"{matrix.summary()}{worst}; the trials took {matrix.elapsed_s / 60:.1f} min.", "",
        *_WORDS,
        "", f"Runs without a defect, where any finding not listed here is a false alarm: {runs}.", "",
    ]  # fmt: skip
    for device, clauses in sorted(matrix.baseline.items()):
        out += [
            f"{device} breaks by itself, which catches nothing here: {', '.join(clauses)}"
            f" (causes in its profile, `harness/profiles/`).",
            "",
        ]
    for clause, cause in sorted(KNOWN_OF_MAINLINE.items()):
        out += [f"{clause} is a true finding on every device: {cause}.", ""]
    exceptions = [line for line in text_table(matrix).splitlines() if line[:2] in ("~ ", "✗ ", "? ")]
    exceptions = [line for line in exceptions if ":" in line]
    if exceptions:
        out += ["## Exceptions", "", *(f"* {_md(line)}" for line in exceptions), ""]
    chapters: dict[str, list[MatrixRow]] = {}
    for row in matrix.rows:
        chapters.setdefault(row.defect.clause.partition("-")[0], []).append(row)
    out += ["## Defects", "", 
            "| defect | what is wrong | where | breaks | caught by | s | programs | seeds |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for chapter in sorted(chapters):
        for row in sorted(chapters[chapter], key=lambda r: (r.defect.clause, r.defect.name)):
            name, where, breaks, caught, seconds, programs, seeds = _cells(row)
            place = f"{where}, {row.defect.where}" if row.defect.module == "core" else where
            cells = (f"`{name}`", row.defect.text, place, breaks, caught, seconds, programs, seeds)
            out.append("| " + " | ".join(_md(cell) for cell in cells) + " |")
    out += [
        "",
        "## Shortest programs",
        "",
        "As the suite leaves them after shrinking, from the device opened and RUNNING.",
        "",
    ]
    for row in matrix.rows:
        if row.case:
            out.append(f"* `{row.defect.name}` ({row.defect.clause}): `{_md(row.case)[:600]}`")
    out += ["", "## MUST clauses without a defect", "", *_uncovered(matrix.rows), ""]
    return "\n".join(out)


def _uncovered(rows: Iterable[MatrixRow]) -> list[str]:
    broken = {row.defect.clause for row in rows}
    chapters: dict[str, list[str]] = {}
    for clause in by_id().values():
        if clause.level == "MUST" and clause.id not in broken:
            chapters.setdefault(clause.chapter, []).append(clause.id)
    return [f"* {chapter}: {', '.join(ids)}" for chapter, ids in sorted(chapters.items())] or ["none"]


def _md(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(matrix: Matrix) -> str:
    """The matrix as one HTML file, which fetches nothing; all text is escaped."""
    rows = "".join(
        f'<tr class="{row.verdict}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in (_SYMBOLS[row.verdict], *_cells(row)))
        + f"<td>{html.escape(row.defect.text)}<br><code>{html.escape(row.case[:600])}</code></td></tr>"
        for row in matrix.rows
    )
    head = "".join(f"<th>{cell}</th>" for cell in ("", *_HEAD, "what is wrong, and the shortest program"))
    alarms = "".join(
        f"<li>{html.escape(f'{a.device}, seed {a.seed}: {a.seen.clause}: expected {a.seen.expected}, ')}"
        f"{html.escape(f'observed {a.seen.observed}')}</li>"
        for a in matrix.alarms
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>vfiocert: proof</title><style>'
        "body{font:14px system-ui;margin:2em}table{border-collapse:collapse}td,th{border:1px solid #ccc;"
        "padding:3px 7px;text-align:left;vertical-align:top}.missed,.undecided{background:#fdd}"
        ".elsewhere{background:#ffd}code{font-size:12px}</style>"
        f"<h1>Proof</h1><p>{html.escape(matrix.summary())}</p>"
        + (f"<h2>False alarms</h2><ul>{alarms}</ul>" if alarms else "")
        + f"<table><tr>{head}</tr>{rows}</table></html>\n"
    )


def with_summary(readme: str, summary: str) -> str:
    """The README with the line between its marks replaced; UsageError if the marks are missing."""
    begin, end = README_MARK
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UsageError(f"README.md has no line between {begin} and {end}; add the two marks")
    return f"{before}{begin}\n{summary}\n{end}{after}"
