# SPDX-License-Identifier: Apache-2.0
"""Build the modules of the kernel's VFIO core with one rule broken by a patch.

`drivers/vfio` of the lab kernel's own source is built once, outside its tree, against the lab kernel's build
tree.  A patch is applied to a copy of that, so that only the files it touches are compiled again (seconds).
Only the modules that differ from the unpatched ones are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.kernel import KernelBuild
from harness.lab.outoftree import compilers_words, strip_debug
from harness.lab.places import cache_dir, made_once, prune, use_directory
from harness.lab.silicon import build_changed, driver_source, read_silicon, silicon_drivers
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = ["patched_driver", "patched_modules"]

_RECIPE = 1
_TIMEOUT_S = 900.0
_PATCH_TIMEOUT_S = 30
_FOLDER = "drivers/vfio"


def patched_modules(kernel: KernelBuild, patch: Path, progress: Progress) -> tuple[Path, ...]:
    """Build the kernel's core with `patch`; return the stripped `.ko` files that differ from its own.

    LabError with the output of patch or the compiler if it does not apply or build, or changes no module.
    """
    diff = patch.read_bytes().partition(b"\n--- ")[2]  # without its head, which does not change the result
    key = hashlib.sha256(f"core {_RECIPE} {kernel.key} {kernel.release}\n".encode() + diff)
    final = cache_dir("core") / key.hexdigest()[:24]
    with made_once(final, timeout_s=_TIMEOUT_S, what=f"building {patch.name}", progress=progress) as part:
        if part is not None:
            progress.step(f"building the patched core: {patch.stem}")
            tree = _unpatched(kernel, progress)
            _build(kernel, patch, tree, part, final.with_name(final.name + ".log"), progress)
            prune(final.parent)
    use_directory(final)
    return tuple(sorted(final.glob("*.ko")))


def patched_driver(kernel: KernelBuild, module: str, patch: Path, progress: Progress) -> Path:
    """The `.ko` of a driver that has a model once `patch` is applied to its source.

    LabError with the words of patch or compiler where it does not apply or build, or changes nothing.
    """
    folder = silicon_drivers()[module]
    silicon = read_silicon(folder)
    with tempfile.TemporaryDirectory(prefix="vfiocert-driver-") as scratch:
        copy = Path(scratch) / silicon.source
        shutil.copytree(driver_source(kernel, silicon), copy)
        _apply(patch, Path(scratch))
        try:
            return build_changed(kernel, folder, copy, progress)
        except LabError as error:
            raise LabError(f"{patch.name}: {error}") from None


def _unpatched(kernel: KernelBuild, progress: Progress) -> Path:
    """The built, unpatched folder, to copies of which patches are applied."""
    if kernel.build_tree is None or kernel.source_tree is None:
        raise UsageError(f"kernel {kernel.release} has no source and build tree to patch")
    key = hashlib.sha256(f"core tree {_RECIPE} {kernel.key} {kernel.release}\n".encode()).hexdigest()[:24]
    final = cache_dir("core") / f"tree-{key}"
    with made_once(
        final, timeout_s=_TIMEOUT_S, what="building the core's modules", progress=progress
    ) as part:
        if part is not None:
            progress.step("building the core's modules")
            shutil.copytree(kernel.source_tree / _FOLDER, part / "vfio", symlinks=True)
            _make(kernel, part / "vfio", final.with_name(final.name + ".log"), progress)
    use_directory(final)
    return final / "vfio"


def _build(kernel: KernelBuild, patch: Path, tree: Path, part: Path, log: Path, progress: Progress) -> None:
    work = part / _FOLDER
    # copy2 keeps the timestamps, from which make sees what need not be compiled again.
    shutil.copytree(tree, work, symlinks=True, copy_function=shutil.copy2)
    _apply(patch, part)
    log.unlink(missing_ok=True)
    try:
        _make(kernel, work, log, progress)
    except LabError as error:
        raise LabError(f"{patch.name} does not build: {compilers_words(log, work) or error}") from None
    changed = [p for p in sorted(work.rglob("*.ko")) if p.read_bytes() != _same(p, work, tree)]
    if not changed:
        raise LabError(f"{patch.name}: changes no module that the lab kernel builds")
    for path in changed:
        strip_debug(path, part / path.name)
    shutil.rmtree(part / _FOLDER.partition("/")[0])


def _same(path: Path, work: Path, tree: Path) -> bytes:
    try:
        return (tree / path.relative_to(work)).read_bytes()
    except OSError:
        return b""


def _apply(patch: Path, root: Path) -> None:
    try:
        done = subprocess.run(
            ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch", "-i", str(patch)],
            cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_PATCH_TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError("program 'patch' is missing: apt-get install patch") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{patch.name}: patch did not end within {_PATCH_TIMEOUT_S} s") from None
    if done.returncode != 0:
        words = " | ".join((done.stdout + done.stderr).strip().splitlines()[:4])
        raise LabError(f"{patch.name} does not apply to this kernel's {_FOLDER}: {words[:400]}")


def _make(kernel: KernelBuild, folder: Path, log: Path, progress: Progress) -> None:
    jobs = len(os.sched_getaffinity(0))
    watched(
        ["make", "-C", str(kernel.build_tree), f"-j{jobs}", f"M={folder}", "modules"],
        log, _TIMEOUT_S, progress, lambda: None,
    )  # fmt: skip
