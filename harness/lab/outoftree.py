# SPDX-License-Identifier: Apache-2.0
"""Builds kernel modules of this project against the lab's kernel, once for each content of their folder."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import PROJECT
from harness.errors import LabError, UsageError
from harness.lab.kernel import KernelBuild
from harness.lab.modfile import read_module, write_indexes
from harness.lab.places import cache_dir, made_once, prune, use_directory
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = [
    "REFERENCE_MODULES",
    "BuiltModules",
    "build_module",
    "build_sources",
    "compilers_words",
    "install_command",
    "source_files",
    "strip_debug",
]

_RECIPE = 2
_BUILD_TIMEOUT_S = 600.0
_SOURCE = re.compile(r".*\.[chS]|Kbuild|Makefile")

_REFERENCE = PROJECT / "fixtures" / "reference"
REFERENCE_MODULES = {"vfiocert_ref": _REFERENCE / "mdev", "edu_vfio_pci": _REFERENCE / "edu"}
"""Source folders of the reference devices' modules, by the module's name."""


@dataclass(frozen=True)
class BuiltModules:
    """A cache entry: the `.ko` files without debug data, and the folder with the sources of them."""

    modules: tuple[Path, ...]
    source: Path


def install_command(kernel: KernelBuild, module: Path, needs: Sequence[Path] = ()) -> str:
    """The shell command that loads a module, given as its input, in an embedded lab that runs `kernel`.

    It stays where modprobe finds it, with its aliases, as if the lab's image had held it.  `needs`: modules
    of ours that it may depend on.
    """
    name = read_module(module).name
    known = [
        read_module(path) for path in sorted(kernel.modules_dir.glob("*.ko")) if path.name != module.name
    ]
    known += [read_module(path) for path in needs]
    with tempfile.TemporaryDirectory(prefix="vfiocert-modules-") as scratch:
        write_indexes([*known, read_module(module)], Path(scratch))
        dep = _lines(Path(scratch) / "modules.dep", re.compile(rf"{re.escape(module.name)}:"))
        alias = _lines(Path(scratch) / "modules.alias", re.compile(rf"alias \S+ {re.escape(name)}$"))
    steps = [
        "cd /lib/modules/$(uname -r)",
        f"cat >.{name}.$$",
        f"mv .{name}.$$ {module.name}",
        f"{{ grep -q '^{module.name}:' modules.dep || printf '%s\\n' {shlex.join(dep)} >>modules.dep; }}",
    ]
    if alias:
        steps.append(
            f"{{ grep -q ' {name}$' modules.alias || printf '%s\\n' {shlex.join(alias)} >>modules.alias; }}"
        )
    return " && ".join([*steps, f"modprobe {name}"])


def _lines(path: Path, wanted: re.Pattern[str]) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if wanted.match(line)]


def build_module(kernel: KernelBuild, source: Path, progress: Progress) -> tuple[Path, ...]:
    """The `.ko` files built from the folder `source` (with a Kbuild), without debug data.

    LabError with the compiler's words where it does not build; UsageError where `kernel` has no build tree.
    """
    files = source_files(source)
    if not files:
        raise UsageError(f"{source}: no such folder of module sources")
    return build_sources(kernel, source.name, files, (), progress).modules


def build_sources(
    kernel: KernelBuild, name: str, files: Mapping[str, bytes], options: Sequence[str], progress: Progress
) -> BuiltModules:
    """The modules that `files` (path -> content, a Kbuild among them) make; `options` go to make.

    LabError with the compiler's words where it does not build; UsageError where `kernel` has no build tree.
    """
    if kernel.build_tree is None:
        raise UsageError(f"kernel {kernel.release} has no build tree to build {name} against")
    final = cache_dir("module") / _content_key(kernel, files, options)
    with made_once(
        final, timeout_s=_BUILD_TIMEOUT_S, what=f"building the modules of {name}", progress=progress
    ) as part:
        if part is not None:
            progress.step(f"building the modules of {name}")
            _build(
                kernel.build_tree, name, files, options, part, final.with_name(final.name + ".log"), progress
            )
            prune(final.parent)
    use_directory(final)
    return BuiltModules(tuple(sorted(final.glob("*.ko"))), final / "source")


def source_files(folder: Path) -> dict[str, bytes]:
    """The sources in a folder (C, headers, assembly, Kbuild, Makefile), by their path in it; {} for none."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and _SOURCE.fullmatch(p.name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _content_key(kernel: KernelBuild, files: Mapping[str, bytes], options: Sequence[str]) -> str:
    digest = hashlib.sha256(f"module {_RECIPE} {kernel.key} {kernel.release} {' '.join(options)}\n".encode())
    for path, data in sorted(files.items()):
        digest.update(f"{path} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:24]


def _build(
    build_tree: Path,
    name: str,
    files: Mapping[str, bytes],
    options: Sequence[str],
    part: Path,
    log: Path,
    progress: Progress,
) -> None:
    work = part / "work"
    for place in (work, part / "source"):
        for path, data in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
    log.unlink(missing_ok=True)
    jobs = len(os.sched_getaffinity(0))
    try:
        watched(
            ["make", "-C", str(build_tree), f"-j{jobs}", f"M={work}", *options, "modules"],
            log, _BUILD_TIMEOUT_S, progress, lambda: None,
        )  # fmt: skip
    except LabError as error:
        raise LabError(f"{name}: {compilers_words(log, work) or error} (all of it: {log})") from None
    built = sorted(work.glob("**/*.ko"))
    if not built:
        raise LabError(f"{name}: nothing was built; its Kbuild names no obj-m")
    for module in built:
        strip_debug(module, part / module.name)
    shutil.rmtree(work)


def strip_debug(path: Path, copy: Path) -> None:
    """A copy of a module without debug data, whole where strip cannot read it; UsageError without strip."""
    try:
        subprocess.run(
            ["strip", "--strip-debug", "-o", str(copy), str(path)],
            check=True, timeout=60, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError("program 'strip' is missing: apt-get install binutils") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        shutil.copyfile(path, copy)


def compilers_words(log: Path, work: Path) -> str:
    """The first error in a build's log, at most three of them."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    errors = [line.replace(f"{work}/", "") for line in lines if re.search(r"\berror\b[: ]|ERROR:", line)]
    return "; ".join(line[:300] for line in errors[:3])
