# SPDX-License-Identifier: Apache-2.0
"""The folders of the embedded lab: the shared cache, the private run directory, and locks.

Expensive results are made once, in a temporary folder beside the final place that is renamed at the end,
under a file lock: two runs never race, and a killed run leaves no half-made result.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.progress import NoProgress, Progress

__all__ = ["cache_dir", "locked", "made_once", "project_path", "prune", "run_dir", "use_directory"]

_MAX_SOCKET_PATH = 107
_KEEP_S = 30 * 86400


def project_path(name: str) -> Path:
    """A data file of this package (`config/plain.config`, `init/rcS`)."""
    return Path(__file__).resolve().parent / name


def cache_dir(area: str) -> Path:
    """`$XDG_CACHE_HOME/vfiocert/AREA` (default `~/.cache`), made if missing; UsageError if that fails."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    place = Path(base) / "vfiocert" / area
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cache folder {place} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a writable folder"
        ) from None
    return place


def run_dir() -> Path:
    """The folder that holds one folder per running lab, mode 0700 and owned by this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        place = Path(runtime) / "vfiocert"
    else:
        place = Path(tempfile.gettempdir()) / f"vfiocert-{os.getuid()}"
    # In a shared /tmp another user may own the folder, and then the sockets and keys in it.
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise UsageError(
            f"run folder {place} cannot be made ({error.strerror}); set XDG_RUNTIME_DIR to a private folder"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(
            f"run folder {place} is not a private folder of uid {os.getuid()} (mode 0700); "
            "remove it or set XDG_RUNTIME_DIR to a private folder"
        )
    # 52 bytes: two slashes, the longest lab name and the longest socket name.
    if len(str(place)) + 52 > _MAX_SOCKET_PATH:
        raise UsageError(
            f"run folder {place} is too long for a unix socket ({_MAX_SOCKET_PATH} bytes with "
            "the lab's name); set XDG_RUNTIME_DIR to a shorter folder"
        )
    return place


@contextmanager
def locked(
    path: Path, *, timeout_s: float, what: str, progress: Progress | None = None, remove: bool = False
) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; LabError naming `what` after `timeout_s` seconds.

    The kernel drops the lock with its process, so a killed owner blocks nobody.  With `remove` the file is
    deleted at the end: for locks whose names are not used again.
    """
    report = progress or NoProgress()
    deadline = time.monotonic() + timeout_s
    waiting = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock_now(handle, path):
            break
        os.close(handle)
        if time.monotonic() > deadline:
            raise LabError(
                f"{what}: another run has held {path} for {timeout_s:.0f} s; wait for it or end it"
            )
        if not waiting:
            report.step(f"waiting for another run: {what}")
            waiting = True
        report.tick(None)
        time.sleep(0.2)
    try:
        yield
        if remove:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock_now(handle: int, path: Path) -> bool:
    """Try to lock; False if another process has the lock, or `path` is a different file by now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def made_once(final: Path, *, timeout_s: float, what: str, progress: Progress) -> Iterator[Path | None]:
    """Yield a temporary folder to fill, renamed to `final` at the end, or None if `final` exists already.

    The temporary folder is removed if the body raises.
    """
    if final.is_dir():
        yield None
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with locked(final.with_name(final.name + ".lock"), timeout_s=timeout_s, what=what, progress=progress):
        if final.is_dir():
            yield None
            return
        for left in final.parent.glob(f".{final.name}.*.part"):  # of a killed run, whose lock we hold now
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent))
        try:
            yield part
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def use_directory(path: Path) -> None:
    """Mark a cache entry as used now, so that `prune` keeps it."""
    with open(path / ".used", "w", encoding="ascii"):
        pass


def prune(area: Path) -> None:
    """Remove the entries of a cache area that were not used for 30 days."""
    for entry in area.iterdir():
        try:
            if entry.is_dir() and time.time() - (entry / ".used").stat().st_mtime > _KEEP_S:
                shutil.rmtree(entry, ignore_errors=True)
        except OSError:
            continue
