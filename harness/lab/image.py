# SPDX-License-Identifier: Apache-2.0
"""The lab host's file system: an initramfs of busybox, dropbear, python3 and the kernel's modules.

Two archives, which the kernel unpacks one after the other: the shared one (everything but keys, cached
by its content), and a small private one with the keys of one lab.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.cpio import CpioWriter
from harness.lab.kernel import KernelBuild
from harness.lab.places import cache_dir, made_once, project_path, prune, use_directory
from harness.progress import Progress

__all__ = ["Image", "base_image", "key_archive"]

_RECIPE = 3  # raise it when this file changes what an image holds
_PYTHON = "/usr/bin/python3"
_LEFT_OUT = frozenset(
    {
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
        "distutils",
        "venv",
        "__pycache__",
        "__phello__",
        "dist-packages",
        "site-packages",
        "turtle.py",
        "LICENSE.txt",
    }
)
# OpenSSL costs 5 MB and, under emulation, a good part of the agent's start; hashlib has its own sha256.
_LEFT_OUT_EXTENSIONS = re.compile(
    r"^(_test.*|_ctypes_test|_xxtestfuzz|_tkinter|_ssl|_hashlib|_curses.*|readline|_dbm|_gdbm"
    r"|_sqlite3|nis|audioop|ossaudiodev|xx.*)\."
)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class Image:
    """A cached base image: `path` is the gzipped initramfs, `key` its hash."""

    path: Path
    key: str


def base_image(kernel: KernelBuild, progress: Progress) -> Image:
    """The image for `kernel`, made when the cache has none; UsageError names a package that is missing."""
    busybox = _program("busybox", "/bin/busybox", "busybox-static")
    dropbear = _program("dropbear", "/usr/sbin/dropbear", "dropbear-bin")
    python = _program("python3", _PYTHON, "python3")
    key = _image_key(kernel, (busybox, dropbear, python))
    final = cache_dir("image") / key
    with made_once(final, timeout_s=600, what="building the lab image", progress=progress) as part:
        if part is not None:
            progress.step("building the lab image")
            with (
                gzip.GzipFile(
                    filename="",
                    mode="wb",
                    fileobj=open(part / "initramfs.gz", "wb"),
                    compresslevel=6,
                    mtime=0,
                ) as out,
                CpioWriter(out) as cpio,
            ):
                _system(cpio, busybox)
                _binaries(cpio, dropbear, python)
                _python_library(cpio, progress)
                _modules(cpio, kernel)
            prune(final.parent)
    use_directory(final)
    return Image(final / "initramfs.gz", key)


def key_archive(host_key: bytes, authorized: str, hostname: str) -> bytes:
    """The private archive (gzip): dropbear's host key, the one key that may log in, the host's name."""
    raw = io.BytesIO()
    with CpioWriter(raw) as cpio:
        cpio.folder("etc/dropbear", 0o700)
        cpio.file("etc/dropbear/host_key", host_key, 0o600)
        cpio.folder("root", 0o700)
        cpio.folder("root/.ssh", 0o700)
        cpio.file("root/.ssh/authorized_keys", authorized.encode() + b"\n", 0o600)
        cpio.file("etc/hostname", hostname.encode() + b"\n")
    return gzip.compress(raw.getvalue(), mtime=0)


def _system(cpio: CpioWriter, busybox: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "var/log", "mnt", "etc"):
        cpio.folder(name)
    cpio.folder("tmp", 0o1777)
    cpio.folder("root", 0o700)
    cpio.link("var/run", "/run")
    cpio.device("dev/console", 5, 1)
    cpio.device("dev/null", 1, 3, 0o666)
    cpio.file("bin/busybox", busybox.read_bytes(), 0o755)
    cpio.link("init", "/bin/busybox")
    for applet in _output(str(busybox), "--list").split():
        if re.fullmatch(r"[A-Za-z0-9_.\[-]+", applet) and applet != "busybox":
            cpio.link(f"bin/{applet}", "/bin/busybox")
    cpio.link("sbin/reboot", "/bin/busybox")
    cpio.link("sbin/modprobe", "/bin/busybox")  # the kernel's own request_module() calls this path
    cpio.file("etc/passwd", _PASSWD.encode())
    cpio.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    cpio.file("etc/shells", b"/bin/sh\n")
    cpio.file("etc/inittab", project_path("init/inittab").read_bytes())
    cpio.file("etc/rcS", project_path("init/rcS").read_bytes(), 0o755)
    cpio.file("etc/control.py", project_path("init/control.py").read_bytes(), 0o755)


def _binaries(cpio: CpioWriter, dropbear: Path, python: Path) -> None:
    cpio.file("usr/sbin/dropbear", dropbear.read_bytes(), 0o755)
    real = python.resolve()
    cpio.file(f"usr/bin/{real.name}", real.read_bytes(), 0o755)
    if real.name != "python3":
        cpio.link("usr/bin/python3", real.name)
    wanted = {dropbear, real, *_extension_modules(_python_home())}
    libraries: dict[str, Path] = {}
    for path in wanted:
        for line in _output("ldd", str(path)).splitlines():
            found = re.search(r"(/\S+) \(0x[0-9a-f]+\)$", line)
            if found:
                libraries[found.group(1)] = Path(found.group(1))
    # Loaded by glibc on demand, so ldd does not show it: thread cancellation dies without it.
    for library in list(libraries.values()):
        if library.name == "libc.so.6" and (library.parent / "libgcc_s.so.1").exists():
            libraries[str(library.parent / "libgcc_s.so.1")] = library.parent / "libgcc_s.so.1"
    for name, path in sorted(libraries.items()):
        cpio.file(name.lstrip("/"), path.read_bytes(), 0o755)


def _python_library(cpio: CpioWriter, progress: Progress) -> None:
    """The standard library as compiled files only: half the size, and no compiling in the guest."""
    home = _python_home()
    with tempfile.TemporaryDirectory(prefix="vfiocert-image-") as scratch:
        copy = Path(scratch) / home.name
        shutil.copytree(
            home,
            copy,
            ignore=lambda folder, names: [
                name
                for name in names
                if name in _LEFT_OUT
                or name.startswith("config-")
                or (Path(folder).name == "lib-dynload" and _LEFT_OUT_EXTENSIONS.match(name))
            ],
        )
        progress.tick(0.3)
        # -b: beside the source, so that the source can go; unchecked: nothing to compare it with.
        _output(
            _PYTHON,
            "-I",
            "-m",
            "compileall",
            "-q",
            "-b",
            "-d",
            str(home),
            "--invalidation-mode",
            "unchecked-hash",
            str(copy),
        )
        progress.tick(0.7)
        for folder, folders, names in os.walk(copy):
            folders.sort()
            for name in sorted(names):
                path = Path(folder) / name
                if path.suffix in {".pyc", ".so"} and path.is_file():
                    cpio.file(str(home / path.relative_to(copy)).lstrip("/"), path.read_bytes())


def _modules(cpio: CpioWriter, kernel: KernelBuild) -> None:
    for path in sorted(kernel.modules_dir.iterdir()):
        cpio.file(f"lib/modules/{kernel.release}/{path.name}", path.read_bytes())


def _extension_modules(home: Path) -> list[Path]:
    return [
        path
        for path in sorted((home / "lib-dynload").glob("*.so"))
        if not _LEFT_OUT_EXTENSIONS.match(path.name)
    ]


def _python_home() -> Path:
    """Folder of the standard library of the system's python3, which is the guest's."""
    home = Path(_output(_PYTHON, "-I", "-c", "import os; print(os.path.dirname(os.__file__))").strip())
    if not (home / "os.py").is_file():
        raise UsageError(f"standard library of {_PYTHON} is not in {home}: apt-get install python3")
    return home


def _program(name: str, usual: str, package: str) -> Path:
    path = usual if os.access(usual, os.X_OK) else shutil.which(name)
    if path is None:
        raise UsageError(f"program {name!r} is missing: apt-get install {package}")
    return Path(path)


def _image_key(kernel: KernelBuild, programs: tuple[Path, ...]) -> str:
    digest = hashlib.sha256(f"image {_RECIPE} {kernel.key} {kernel.release}\n".encode())
    for path in (*programs, _python_home() / "os.py"):
        found = path.resolve().stat()
        digest.update(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}\n".encode())
    for name in ("init/rcS", "init/inittab", "init/control.py"):
        digest.update(project_path(name).read_bytes())
    for path in (Path(__file__), Path(__file__).with_name("cpio.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(f"program {command[0]!r} is missing; see harness/lab/packages.txt") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{command[0]} did not end within {_COMMAND_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        # ldd fails on a static program: it then needs no library.
        if command[0] == "ldd" and "not a dynamic executable" in error.stdout + error.stderr:
            return ""
        last = (error.stderr or error.stdout).strip().splitlines()[-1:] or ["no output"]
        raise LabError(f"{' '.join(command[:3])} failed with status {error.returncode}: {last[0]}") from None
    return done.stdout
