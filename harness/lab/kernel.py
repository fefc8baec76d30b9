# SPDX-License-Identifier: Apache-2.0
"""The lab's kernel: built from source once and cached, or taken from a tree the user has built.

A cache entry holds `bzImage`, `modules/` (flat, stripped of debug data, with modprobe's indexes), `config`,
`uapi/linux/{vfio,iommufd}.h`, and for a kernel built here `build/`, the O= tree that out-of-tree modules are
built against: `make -C BUILD M=DIR modules`.  Give one target per call: `clean modules` makes kbuild of 7.2
overwrite DIR/Makefile and call itself forever.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.kconfig import compare_config, fragments, known_symbols, read_config
from harness.lab.modfile import ModuleInfo, closure, read_module, write_indexes
from harness.lab.places import cache_dir, made_once, use_directory
from harness.lab.source import KernelSource, obtain_source, parse_origin
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = ["GCOV_FOLDERS", "KernelBuild", "load_kernel", "obtain_kernel"]

_RECIPE = 1  # raise it when the content of a cache entry changes
_BUILD_TIMEOUT_S = 4 * 3600
_USUAL_OUTPUT_LINES = {"plain": 2276, "debug": 2500}
_HEADERS = ("vfio.h", "iommufd.h")
GCOV_FOLDERS = ("drivers/vfio", "drivers/iommu/iommufd", "samples/vfio-mdev")
"""The folders whose executed lines the gcov flavour counts."""
# No Kconfig symbol says which folders get counters: a folder's own Makefile does.  A variable of make's
# command line reaches every folder and is expanded there, where $(obj) is the folder's name.
_MAKE_VARIABLES = {
    "gcov": ["GCOV_PROFILE=$(if $(filter " + " ".join(f"{f} {f}/%" for f in GCOV_FOLDERS) + ",$(obj)),y)"]
}
# Of a distribution-sized tree, only modules that a VFIO lab can use and their dependencies go into the guest.
_WANTED = re.compile(
    r"^(drivers/vfio|samples/vfio-mdev|drivers/uio|drivers/nvme/host|virt/lib|drivers/iommu"
    r"|drivers/net/ethernet/intel/igb|drivers/virtio|drivers/net/virtio_net|net/packet"
    r"|drivers/char/hw_random/virtio)"
)
_ALL_UP_TO = 64


@dataclass(frozen=True)
class KernelBuild:
    """A kernel ready to boot.  `build_tree` and `source_tree` are None if the origin has none.

    `notes` are one-line remarks for the user, such as configuration lines that an older kernel does not know.
    """

    key: str
    release: str
    flavour: str
    folder: Path
    build_tree: Path | None
    source_tree: Path | None
    notes: tuple[str, ...]

    @property
    def bzimage(self) -> Path:
        """The bootable kernel."""
        return self.folder / "bzImage"

    @property
    def modules_dir(self) -> Path:
        """Flat folder of `*.ko` with `modules.dep`, `modules.alias`, `modules.softdep`."""
        return self.folder / "modules"

    @property
    def config(self) -> Path:
        """The `.config` that the kernel was built with."""
        return self.folder / "config"

    @property
    def uapi_dir(self) -> Path:
        """Include folder with `linux/vfio.h` and `linux/iommufd.h` of exactly this kernel."""
        return self.folder / "uapi"


def obtain_kernel(spec: str | None, flavour: str, progress: Progress) -> KernelBuild:
    """Return the kernel that `--kernel SPEC --flavour FLAVOUR` names; build it if it is not in the cache.

    UsageError for a wrong SPEC or flavour or a missing program; LabError if fetching or building fails.
    """
    parts = fragments(flavour)
    origin = parse_origin(spec)
    if origin.kind == "built":
        if flavour != "plain":
            raise UsageError(
                f"--flavour {flavour} builds a kernel, but --kernel {origin.value} is built "
                "already; leave --flavour out"
            )
        return _adopt(Path(origin.value), progress)
    source = obtain_source(origin, progress)
    key = _build_key(source, parts, flavour)
    final = cache_dir("kernel") / key
    with made_once(
        final, timeout_s=_BUILD_TIMEOUT_S, what="building the lab kernel", progress=progress
    ) as part:
        if part is not None:
            log = final.with_name(f"{key}.log")
            _build(source, flavour, parts, part, log, progress)
            (part / "build" / "Makefile").write_text(
                f"export KBUILD_OUTPUT = {final}/build\ninclude {source.tree}/Makefile\n", encoding="utf-8"
            )
    return load_kernel(final)


def _build(
    source: KernelSource, flavour: str, parts: list[Path], part: Path, log: Path, progress: Progress
) -> None:
    build = part / "build"
    build.mkdir()
    log.unlink(missing_ok=True)
    make = ["make", "-C", str(source.tree), f"O={build}", *_MAKE_VARIABLES.get(flavour, [])]
    progress.step(f"configuring the {flavour} lab kernel ({source.version})")
    watched([*make, "tinyconfig"], log, 600, progress, lambda: None)
    watched(
        [
            str(source.tree / "scripts/kconfig/merge_config.sh"),
            "-m",
            "-O",
            str(build),
            str(build / ".config"),
            *map(str, parts),
        ],
        log,
        600,
        progress,
        lambda: None,
    )
    watched([*make, "olddefconfig"], log, 600, progress, lambda: None)
    wanted: dict[str, str] = {}
    for fragment in parts:
        wanted.update(read_config(fragment))
    lost, unknown = compare_config(wanted, read_config(build / ".config"), known_symbols(source.tree))
    if lost:
        raise LabError(
            f"the configuration of {source.version} lost {len(lost)} line(s) of the lab's fragments: "
            + ", ".join(lost[:8])
            + "; a symbol they depend on is missing in harness/lab/config"
        )
    notes = [f"this kernel does not know {text}" for text in unknown]

    jobs = len(os.sched_getaffinity(0))
    progress.step(f"building the {flavour} lab kernel ({source.version}), minutes; -j{jobs}")
    lines = [0]
    usual = _USUAL_OUTPUT_LINES.get(flavour, 2500)
    watched(
        [*make, f"-j{jobs}", "bzImage", "modules"],
        log,
        _BUILD_TIMEOUT_S,
        progress,
        lambda: min(0.99, lines[0] / usual),
        lines=lines,
    )
    _collect(build, source.tree, part, progress)
    _describe(
        part,
        {
            "flavour": flavour,
            "source": str(source.tree),
            "version": source.version,
            "own": True,
            "notes": notes,
        },
    )


def _adopt(tree: Path, progress: Progress) -> KernelBuild:
    """Make a cache entry with copies of what `tree`, built by the user, holds now."""
    progress.step(f"reading the built kernel {tree}")
    paths = sorted(tree.glob("**/*.ko"))
    digest = hashlib.sha256(f"built {_RECIPE} {tree}\n".encode())
    for path in [tree / "arch/x86/boot/bzImage", tree / ".config", *paths]:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    final = cache_dir("kernel") / f"built-{digest.hexdigest()[:24]}"
    source = _source_of(tree)
    with made_once(final, timeout_s=1800, what=f"reading {tree}", progress=progress) as part:
        if part is not None:
            _collect(tree, source, part, progress)
            _describe(
                part,
                {
                    "flavour": "plain",
                    "source": str(source) if source else None,
                    "version": str(tree),
                    "own": False,
                    "build": str(tree),
                    "notes": [],
                },
            )
    return load_kernel(final)


def _collect(build: Path, source: Path | None, part: Path, progress: Progress) -> None:
    progress.step("collecting the kernel and its modules")
    try:
        release = (build / "include/config/kernel.release").read_text(encoding="ascii").strip()
        shutil.copyfile(build / "arch/x86/boot/bzImage", part / "bzImage")
        shutil.copyfile(build / ".config", part / "config")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{build} is not a completely built kernel tree: {error}; run 'make bzImage modules' in it"
        ) from None
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~_-]{0,63}", release):
        raise UsageError(f"{build}/include/config/kernel.release is {release!r}, not a kernel release")
    (part / "release").write_text(release, encoding="ascii")
    folder = part / "modules"
    folder.mkdir()
    copies: list[ModuleInfo] = []
    for path in _chosen_modules(build):
        copy = folder / path.name
        try:
            subprocess.run(
                ["strip", "--strip-debug", "-o", str(copy), str(path)],
                check=True,
                timeout=60,
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise UsageError("program 'strip' is missing: apt-get install binutils") from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            shutil.copyfile(path, copy)
        copies.append(read_module(copy))
    write_indexes(copies, folder)
    for name in _HEADERS:
        header = (source or build) / "include/uapi/linux" / name
        if header.is_file():
            (part / "uapi/linux").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(header, part / "uapi/linux" / name)


def _chosen_modules(build: Path) -> list[Path]:
    """The modules for the guest: all of a small tree, else those of interest and their dependencies."""
    paths = sorted(path for path in build.glob("**/*.ko") if path.is_file())
    if len(paths) <= _ALL_UP_TO:
        return paths
    modules: dict[str, ModuleInfo] = {}
    for path in paths:
        info = read_module(path)
        modules.setdefault(info.name, info)
    wanted = {name for name, info in modules.items() if _WANTED.match(str(info.path.relative_to(build)))}
    return sorted(modules[name].path for name in closure(wanted, modules))


def _source_of(tree: Path) -> Path | None:
    for candidate in (tree / "source", tree):
        if (candidate / "Kconfig").is_file():
            return candidate.resolve()
    return None


def _describe(part: Path, values: dict[str, object]) -> None:
    (part / "kernel.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def load_kernel(folder: Path) -> KernelBuild:
    """Load the cache entry `folder`; LabError if it is damaged."""
    try:
        values = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
        release = (folder / "release").read_text(encoding="ascii").strip()
        build = folder / "build" if values["own"] else Path(values["build"])
        source = Path(values["source"]) if values["source"] else None
        result = KernelBuild(
            folder.name,
            release,
            str(values["flavour"]),
            folder,
            build,
            source,
            tuple(str(note) for note in values["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"cached kernel {folder} is damaged ({error}); remove that folder") from None
    use_directory(folder)
    return result


def _build_key(source: KernelSource, parts: list[Path], flavour: str) -> str:
    digest = hashlib.sha256(f"kernel {_RECIPE} {source.version}\n{_compiler()}\n".encode())
    for fragment in parts:
        digest.update(fragment.read_bytes())
    for variable in _MAKE_VARIABLES.get(flavour, []):
        digest.update(f"{variable}\n".encode())
    return digest.hexdigest()[:24]


def _compiler() -> str:
    try:
        done = subprocess.run(
            ["gcc", "-v"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"gcc does not run ({error}): apt-get install gcc") from None
    return done.stderr.strip().splitlines()[-1]
