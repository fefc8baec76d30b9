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
from pathlib import Path

from harness import PROJECT
from harness.errors import LabError, UsageError
from harness.lab.kernel import KernelBuild
from harness.lab.modfile import read_module, write_indexes
from harness.lab.places import cache_dir, made_once, prune, use_directory
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = ["REFERENCE_MODULES", "build_module", "compilers_words", "install_command", "strip_debug"]

_RECIPE = 1
_BUILD_TIMEOUT_S = 600.0
_SOURCE = re.compile(r".*\.[chS]|Kbuild|Makefile")

_REFERENCE = PROJECT / "fixtures" / "reference"
REFERENCE_MODULES = {"vfiocert_ref": _REFERENCE / "mdev", "edu_vfio_pci": _REFERENCE / "edu"}
"""Source folders of the reference devices' modules, by the module's name."""


def _content_key(kernel: KernelBuild, folder: Path) -> str:
    digest = hashlib.sha256(f"module {_RECIPE} {kernel.key} {kernel.release}\n".encode())
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def install_command(kernel: KernelBuild, module: Path) -> str:
    """The shell command that loads a module, given as its input, in an embedded lab that runs `kernel`.

    It stays where modprobe finds it, with its aliases, as if the lab's image had held it.
    """
    name = read_module(module).name
    known = [
        read_module(path) for path in sorted(kernel.modules_dir.glob("*.ko")) if path.name != module.name
    ]
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
    if kernel.build_tree is None:
        raise UsageError(f"kernel {kernel.release} has no build tree to build {source.name} against")
    final = cache_dir("module") / _content_key(kernel, source)
    with made_once(
        final, timeout_s=_BUILD_TIMEOUT_S, what=f"building the modules of {source.name}", progress=progress
    ) as part:
        if part is not None:
            _build(kernel.build_tree, source, part, final.with_name(final.name + ".log"), progress)
            prune(final.parent)
    use_directory(final)
    return tuple(sorted(final.glob("*.ko")))


def _build(build_tree: Path, source: Path, part: Path, log: Path, progress: Progress) -> None:
    progress.step(f"building the modules of {source.name}")
    work = part / "source"
    for path in _files(source):
        copy = work / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    log.unlink(missing_ok=True)
    jobs = len(os.sched_getaffinity(0))
    try:
        watched(
            ["make", "-C", str(build_tree), f"-j{jobs}", f"M={work}", "modules"],
            log, _BUILD_TIMEOUT_S, progress, lambda: None,
        )  # fmt: skip
    except LabError as error:
        raise LabError(f"{source.name}: {compilers_words(log, work) or error} (all of it: {log})") from None
    built = sorted(work.glob("**/*.ko"))
    if not built:
        raise LabError(f"{source}: nothing was built; its Kbuild names no obj-m")
    for path in built:
        strip_debug(path, part / path.name)
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


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of module sources")
    return sorted(p for p in folder.rglob("*") if p.is_file() and _SOURCE.fullmatch(p.name))
