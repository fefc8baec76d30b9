# SPDX-License-Identifier: Apache-2.0
"""Fetch the counters of a gcov lab and turn them into executed lines.

Source: Documentation/dev-tools/gcov.rst.  The lab's debugfs holds a .gcda for each object; the compiler left
the .gcno beside the object in the build tree; `gcov` (of the same gcc) combines the two.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.hosts.inventory.models import HostSpec
from harness.hosts.ssh import SshHost
from harness.lab.kernel import GCOV_FOLDERS, KernelBuild

__all__ = ["Counters", "Function", "Source", "executed_lines", "fetch"]

_CONNECT_S = 20.0
_FETCH_S = 120.0
_GCOV_S = 60.0
_MAX_FILES = 500
_MAX_BYTES = 4 << 20
# debugfs gives every file the size 0, so tar would copy nothing: cat first (gcov.rst, gather_on_test.sh).
_FETCH = (
    "cd /sys/kernel/debug/gcov || exit 1; t=/tmp/gcov.$$; "
    'find . -name \'*.gcda\' | while read -r f; do mkdir -p "$t/${f%/*}" && cat "$f" >"$t/$f"; done; '
    "tar -C $t -czf - .; rm -rf $t"
)

Counters = Mapping[str, bytes]
"""The counters of each object, by path below the build tree (`drivers/vfio/group.gcda`)."""


@dataclass(frozen=True)
class Function:
    """A function as compiled: its name, first and last line."""

    name: str
    first: int
    last: int


@dataclass
class Source:
    """One source file: how often each of its lines ran (lines without code are absent), its functions."""

    lines: Counter[int] = field(default_factory=Counter)
    functions: dict[str, Function] = field(default_factory=dict)

    @property
    def covered(self) -> int:
        """The number of lines that ran."""
        return sum(1 for count in self.lines.values() if count)

    @property
    def percent(self) -> float:
        """The percentage of lines with code that ran."""
        return 100.0 * self.covered / len(self.lines) if self.lines else 0.0

    def missed(self) -> list[int]:
        """Lines that did not run."""
        return sorted(line for line, count in self.lines.items() if not count)

    def merge(self, other: Source) -> None:
        """Add the counts from another lab."""
        for line, count in other.lines.items():
            self.lines[line] += count  # a count of 0 stays as a line that has code
        self.functions.update(other.functions)


def fetch(spec: HostSpec, name: str) -> tuple[str, Counters]:
    """Fetch (boot id, counters) of the kernel that runs on a host; LabError if it has no counters."""
    with SshHost(_CONNECT_S).connect(spec, name, ()) as connection:
        boot = connection.exec("cat /proc/sys/kernel/random/boot_id", _CONNECT_S)[1].decode(
            "ascii", "replace"
        )
        status, out, _ = connection.exec(_FETCH, _FETCH_S)
    if status != 0 or not out:
        raise LabError(f"{name}: no /sys/kernel/debug/gcov; start the lab with --flavour gcov")
    return boot.strip(), _unpacked(out, name)


def _unpacked(archived: bytes, name: str) -> Counters:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archived), mode="r:gz") as archive:
            for number, member in enumerate(archive):
                place = _below_the_build(member.name)
                if not member.isfile() or place is None:
                    continue
                if number > _MAX_FILES or member.size > _MAX_BYTES:
                    raise LabError(
                        f"{name}: {member.name[:100]!r} is more than gcov makes of the lab's kernel"
                    )
                data = archive.extractfile(member)
                found[place] = data.read() if data else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise LabError(f"{name}: the counters arrived damaged: {error}") from None
    return found


def _below_the_build(name: str) -> str | None:
    """`.../KEY.part/build/drivers/vfio/x.gcda` -> `drivers/vfio/x.gcda`; None if it is not in our build."""
    _, found, place = name.partition("/build/")
    inside = any(place.startswith(f"{folder}/") for folder in GCOV_FOLDERS)
    return place if found and inside and ".." not in place.split("/") and place.endswith(".gcda") else None


def executed_lines(kernel: KernelBuild, counters: Counters) -> dict[str, Source]:
    """Count how often each line ran, per source file (relative to the kernel's tree, in profiled folders).

    Every profiled object counts; in one that never ran, all lines are missed.  UsageError if the kernel
    was not built here as gcov; LabError if `gcov` cannot read the counters.
    """
    if kernel.build_tree is None or kernel.source_tree is None or kernel.flavour != "gcov":
        raise UsageError(f"kernel {kernel.release} ({kernel.flavour}) is not a gcov build of this suite")
    build = kernel.build_tree.resolve()
    objects = [path for folder in GCOV_FOLDERS for path in sorted((build / folder).rglob("*.gcno"))]
    if not objects:
        raise LabError(f"{build}: no .gcno files; remove that cache entry and build it again")
    found: dict[str, Source] = {}
    with tempfile.TemporaryDirectory(prefix="vfiocert-gcov-") as scratch:
        for notes in objects:
            place = notes.relative_to(build)
            work = Path(scratch) / place
            work.parent.mkdir(parents=True, exist_ok=True)
            work.symlink_to(notes)
            data = counters.get(str(place.with_suffix(".gcda")))
            if data:
                work.with_suffix(".gcda").write_bytes(data)
            _add(found, _gcov(work), kernel.source_tree)
    return found


def _gcov(notes: Path) -> dict[str, object]:
    try:
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", str(notes)],
            capture_output=True, text=True, errors="replace", timeout=_GCOV_S, stdin=subprocess.DEVNULL,
            cwd=notes.parent, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError("program 'gcov' is missing: apt-get install gcc") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"gcov of {notes.name} did not end within {_GCOV_S:g} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode or not isinstance(answer, dict):
        words = (done.stderr.strip().splitlines() or ["no output"])[0]
        raise LabError(f"gcov cannot read {notes.name}: {words}")
    return answer


def _add(found: dict[str, Source], answer: dict[str, object], tree: Path) -> None:
    files = answer.get("files")
    for file in files if isinstance(files, list) else ():
        place = os.path.relpath(os.path.join(str(tree), str(file["file"])), tree)
        if not any(place.startswith(f"{folder}/") for folder in GCOV_FOLDERS):
            continue
        source = Source()
        for line in file["lines"]:
            source.lines[int(line["line_number"])] += int(line["count"])
        for function in file["functions"]:
            name = str(function["name"])
            source.functions[name] = Function(name, int(function["start_line"]), int(function["end_line"]))
        found.setdefault(place, Source()).merge(source)
