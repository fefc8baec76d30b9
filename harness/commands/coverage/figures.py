# SPDX-License-Identifier: Apache-2.0
"""Coverage figures: percentages per file and their targets, reasons, comparison, saved files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import PROJECT
from harness.commands.coverage.collect import Source
from harness.errors import UsageError

__all__ = [
    "REASONS",
    "TARGETS",
    "FileFigure",
    "Reason",
    "annotate",
    "compare",
    "figures",
    "load_reasons",
    "load_saved",
    "ranges",
    "save",
    "table",
]

SCHEMA = 1
REASONS = PROJECT / "docs" / "coverage-unreached.yaml"

# File: (percent to reach, percent of the kernel's own selftests, measured on this lab).  The second is None
# if issue 4 gives only a range.
TARGETS: dict[str, tuple[int, int | None]] = {
    "drivers/vfio/vfio_main.c": (88, 26),
    "drivers/vfio/group.c": (85, 40),
    "drivers/vfio/device_cdev.c": (95, 67),
    "drivers/vfio/container.c": (85, 60),
    "drivers/vfio/iommufd.c": (80, 39),
    "drivers/vfio/vfio_iommu_type1.c": (78, 48),
    "drivers/vfio/pci/vfio_pci_core.c": (65, 35),
    "drivers/vfio/pci/vfio_pci_intrs.c": (85, 30),
    "drivers/vfio/pci/vfio_pci_config.c": (65, 42),
    "drivers/vfio/virqfd.c": (60, 6),
    "samples/vfio-mdev/mtty.c": (90, 0),
}
_IOMMUFD = ("drivers/iommu/iommufd/", 83)
"""The lowest figure of the kernel's selftests for a file of iommufd; its selftest.c is the mock itself."""
_MAX_REASONS = 2000


@dataclass(frozen=True)
class FileFigure:
    """One file of the table."""

    file: str
    lines: int
    covered: int
    explained: int
    """Lines that did not run and have a reason."""
    target: int | None
    selftests: int | None

    @property
    def percent(self) -> float:
        """The percentage of lines with code that ran."""
        return 100.0 * self.covered / self.lines if self.lines else 0.0

    @property
    def met(self) -> bool:
        """Whether it has no target or reaches it."""
        return self.target is None or self.percent >= self.target


@dataclass(frozen=True)
class Reason:
    """Why lines of a function are not reached: all of them, or those between `first` and `last` in it.

    With `text`, only lines of the function that contain it.
    """

    file: str
    function: str
    reason: str
    text: str = ""


def load_reasons(path: Path = REASONS) -> tuple[Reason, ...]:
    """Load the reasons in docs/coverage-unreached.yaml; UsageError names a wrong entry."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(entries, list) or len(entries) > _MAX_REASONS:
        raise UsageError(f"{path.name} is not a list of at most {_MAX_REASONS} entries")
    found = []
    for number, entry in enumerate(entries, 1):
        known = {"file", "function", "reason", "text"}
        right = (
            isinstance(entry, dict)
            and entry.keys() <= known
            and all(isinstance(v, str) for v in entry.values())
        )
        if not right or not all(entry.get(key) for key in ("file", "function", "reason")):
            raise UsageError(f"{path.name}: entry {number} is not file, function, reason and perhaps text")
        found.append(Reason(entry["file"], entry["function"], entry["reason"], entry.get("text", "")))
    return tuple(found)


def explained_lines(file: str, source: Source, reasons: Iterable[Reason], text: list[str]) -> dict[int, str]:
    """Missed lines of `file` that have a reason; `text` is the file's lines ([] if it is not available)."""
    found: dict[int, str] = {}
    missed = source.missed()
    for reason in reasons:
        function = source.functions.get(reason.function)
        if reason.file != file or function is None:
            continue
        for line in missed:
            inside = function.first <= line <= function.last
            shown = text[line - 1] if line <= len(text) else ""
            if inside and (not reason.text or reason.text in shown):
                found.setdefault(line, reason.reason)
    return found


def figures(sources: Mapping[str, Source], reasons: Iterable[Reason], tree: Path) -> list[FileFigure]:
    """One figure per file, those with a target first; headers and iommufd's selftest.c are left out."""
    known = tuple(reasons)
    found = []
    for file, source in sources.items():
        if not file.endswith(".c") or file.endswith("iommufd/selftest.c"):
            continue
        explained = explained_lines(file, source, known, _text(tree / file))
        target, own = TARGETS.get(file, (_IOMMUFD[1] if file.startswith(_IOMMUFD[0]) else None, None))
        found.append(FileFigure(file, len(source.lines), source.covered, len(explained), target, own))
    return sorted(found, key=lambda f: (f.target is None, f.file))


def table(found: Iterable[FileFigure], before: Mapping[str, float] | None = None) -> list[list[str]]:
    """Rows of text, the header first; `before`: percent by file of an earlier run."""
    head = ["file", "lines", "covered", "percent", "target", "selftests", "missed", "with a reason"]
    rows = [head + (["before"] if before is not None else [])]
    for figure in found:
        row = [
            figure.file, str(figure.lines), str(figure.covered), f"{figure.percent:.1f}",
            "" if figure.target is None else f"{figure.target}{'' if figure.met else ' !'}",
            "" if figure.selftests is None else str(figure.selftests),
            str(figure.lines - figure.covered), str(figure.explained),
        ]  # fmt: skip
        if before is not None:
            row.append(f"{before[figure.file]:.1f}" if figure.file in before else "")
        rows.append(row)
    return rows


def ranges(lines: Iterable[int]) -> list[str]:
    """`[1, 2, 3, 7]` -> `["1-3", "7"]`."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return [str(a) if a == b else f"{a}-{b}" for a, b in found]


def save(
    target: Path, sources: Mapping[str, Source], about: Mapping[str, Any], found: Iterable[FileFigure]
) -> None:
    """Write coverage.json, which `--compare` reads."""
    document = {
        "schema": SCHEMA,
        **about,
        "files": {
            figure.file: {
                "lines": figure.lines,
                "covered": figure.covered,
                "percent": round(figure.percent, 2),
                "target": figure.target,
                "missed": ranges(sources[figure.file].missed()),
            }
            for figure in found
        },
    }
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_saved(path: Path) -> dict[str, Any]:
    """Load the coverage.json of an earlier run; UsageError if it is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--compare={path} cannot be read ({str(error).splitlines()[0].lower()})") from None
    if (
        not isinstance(document, dict)
        or document.get("schema") != SCHEMA
        or not isinstance(document.get("files"), dict)
    ):
        raise UsageError(f"--compare={path} is not a coverage.json of this version (schema {SCHEMA})")
    return document


def compare(
    document: Mapping[str, Any], sources: Mapping[str, Source], kernel: str
) -> tuple[dict[str, float], list[str]]:
    """The earlier run's percentage per file, and remarks on lines gained or lost (same kernel only)."""
    before = {str(name): float(entry["percent"]) for name, entry in document["files"].items()}
    words: list[str] = []
    if document.get("kernel") != kernel:
        return before, [f"the earlier run was on {document.get('kernel')}: lines are not compared"]
    for name, entry in document["files"].items():
        if name not in sources:
            continue
        old, new = _lines(entry["missed"]), set(sources[name].missed())
        if old - new:
            words.append(f"{name}: now reached: {', '.join(ranges(old - new))}")
        if new - old:
            words.append(f"{name}: no longer reached: {', '.join(ranges(new - old))}")
    return before, words


def _lines(texts: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for text in texts:
        first, _, last = str(text).partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def annotate(folder: Path, sources: Mapping[str, Source], reasons: Iterable[Reason], tree: Path) -> None:
    """Write each source with its counts: `#####` where a line never ran, `-` where there is no code."""
    known = tuple(reasons)
    for file, source in sources.items():
        text = _text(tree / file)
        explained = explained_lines(file, source, known, text)
        lines = []
        for number, line in enumerate(text, 1):
            count = source.lines.get(number)
            shown = "-" if count is None else str(count) if count else "#####"
            why = f"    /* not reached: {explained[number]} */" if number in explained else ""
            lines.append(f"{shown:>10}:{number:>5}:{line}{why}")
        target = folder / f"{file}.gcov"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
