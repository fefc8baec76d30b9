# SPDX-License-Identifier: Apache-2.0
"""The source of a lab kernel: a Debian series, a tree, or a tarball.

Each source is extracted once, into the cache; `KernelSource.version` names its exact content.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.debian import fetch_package
from harness.lab.places import cache_dir, locked, made_once, use_directory
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = ["DEFAULT_SERIES", "KernelSource", "Origin", "obtain_source", "parse_origin"]

DEFAULT_SERIES = "7.2"
_SERIES = re.compile(r"^[0-9]{1,2}\.[0-9]{1,3}(\.[0-9]{1,3})?$")
_TARBALL = re.compile(r"\.(tar|tar\.xz|tar\.gz|tar\.bz2|txz|tgz)$")
_UPDATE_TIMEOUT_S = 600
_DOWNLOAD_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Origin:
    """What `--kernel` names: `kind` is series, built, source or tarball."""

    kind: str
    value: str


@dataclass(frozen=True)
class KernelSource:
    """A kernel source tree; `version` names its exact content for the cache."""

    tree: Path
    version: str


def parse_origin(text: str | None) -> Origin:
    """Interpret `--kernel TEXT`; None is the default series.  UsageError lists what is allowed."""
    if text is None or text == "":
        return Origin("series", DEFAULT_SERIES)
    path = Path(text).expanduser()
    if path.is_dir():
        real = path.resolve()
        if (real / "arch/x86/boot/bzImage").is_file() and (real / ".config").is_file():
            return Origin("built", str(real))
        if (real / "Makefile").is_file() and (real / "Kconfig").is_file():
            if (real / ".config").exists() or (real / "include/config/kernel.release").exists():
                raise UsageError(
                    f"--kernel {text}: the tree is configured in place but has no "
                    "arch/x86/boot/bzImage; run 'make bzImage modules' or 'make mrproper' in it"
                )
            return Origin("source", str(real))
        raise UsageError(
            f"--kernel {text}: neither a built tree (arch/x86/boot/bzImage and .config) nor a "
            "kernel source tree (Makefile and Kconfig)"
        )
    if path.is_file():
        if not _TARBALL.search(path.name):
            raise UsageError(f"--kernel {text}: a file must be a tarball (.tar, .tar.xz, .tar.gz, .tar.bz2)")
        return Origin("tarball", str(path.resolve()))
    if _SERIES.match(text):
        return Origin("series", text)
    raise UsageError(
        f"--kernel {text!r} does not exist; allowed: a series of Debian's linux-source "
        "(7.2, 6.12), a built tree, a source tree, a tarball"
    )


def obtain_source(origin: Origin, progress: Progress) -> KernelSource:
    """The source tree of `origin` (not kind built), fetched and extracted at most once."""
    if origin.kind == "source":
        progress.step(f"reading {origin.value}")
        return KernelSource(Path(origin.value), "tree " + _tree_fingerprint(Path(origin.value)))
    if origin.kind == "tarball":
        progress.step(f"reading {origin.value}")
        digest = _file_sha256(Path(origin.value))
        return _extracted(Path(origin.value), f"tar-{digest[:24]}", f"tar {digest}", progress)
    return _series_source(origin.value, progress)


def _series_source(series: str, progress: Progress) -> KernelSource:
    """The tree of a Debian series; the network is needed only until it is extracted."""
    area = cache_dir("source")
    known = area / f"debian-{series}.version"
    with locked(
        area / f"debian-{series}.lock",
        timeout_s=_DOWNLOAD_TIMEOUT_S,
        what=f"fetching linux-source-{series}",
        progress=progress,
    ):
        if known.is_file():
            version = known.read_text(encoding="utf-8").strip()
            if (area / f"debian-{version}").is_dir():
                return KernelSource(_only_child(area / f"debian-{version}"), f"debian {version}")
        with tempfile.TemporaryDirectory(prefix=".apt-", dir=area) as scratch:
            package, version = fetch_package(series, Path(scratch), progress)
            unpacked = Path(scratch) / "unpacked"
            progress.step(f"unpacking {package.name}")
            _checked(["dpkg-deb", "-x", str(package), str(unpacked)], _UPDATE_TIMEOUT_S)
            tarballs = [
                path
                for path in sorted(unpacked.glob("usr/src/linux-source-*.tar*"))
                if _TARBALL.search(path.name)
            ]
            if len(tarballs) != 1:
                raise LabError(f"{package.name} holds {len(tarballs)} tarballs in usr/src instead of 1")
            source = _extracted(tarballs[0], f"debian-{version}", f"debian {version}", progress)
        known.write_text(version, encoding="utf-8")
    return source


def _extracted(tarball: Path, name: str, version: str, progress: Progress) -> KernelSource:
    final = cache_dir("source") / name
    with made_once(final, timeout_s=1800, what=f"extracting {tarball.name}", progress=progress) as part:
        if part is not None:
            progress.step(f"extracting {tarball.name}")
            # GNU tar itself refuses absolute names and '..', and xz in a separate process is fast.
            watched(
                ["tar", "-xf", str(tarball), "-C", str(part), "--no-same-owner"],
                None,
                1800,
                progress,
                lambda: None,
            )
            tree = _only_child(part)
            if not (tree / "Makefile").is_file() or not (tree / "Kconfig").is_file():
                raise UsageError(f"--kernel {tarball}: not a kernel source: no Makefile and Kconfig inside")
    use_directory(final)
    return KernelSource(_only_child(final), version)


def _only_child(folder: Path) -> Path:
    children = [path for path in folder.iterdir() if path.is_dir()]
    if len(children) != 1:
        raise LabError(f"{folder} holds {len(children)} folders instead of 1 source tree; remove it")
    return children[0]


def _checked(command: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(f"program {command[0]!r} is missing; see harness/lab/packages.txt") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{command[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise LabError(f"{command[0]} failed with status {done.returncode}: {last[0]}")
    return done.stdout


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _tree_fingerprint(tree: Path) -> str:
    """Hash path, size and time of every file: a changed source is noticed without reading 1.5 GB."""
    digest = hashlib.sha256(str(tree).encode())
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            found = os.lstat(os.path.join(folder, name))
            digest.update(f"{folder}/{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
