# SPDX-License-Identifier: Apache-2.0
"""Variant drivers of the kernel, run untouched without their silicon: `fixtures/silicon/<driver>/`.

A folder holds a model of what stands behind one driver, in C, and `silicon.yaml`.  The driver itself is
compiled from the source of the lab's own kernel, byte for byte; the model is a module named like the core
driver of the physical function, whose symbols it exports.  A new driver is one new folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import PROJECT
from harness.errors import LabError, UsageError
from harness.lab.kernel import KernelBuild
from harness.lab.machine import SILICON_PORTS
from harness.lab.outoftree import build_sources, source_files
from harness.progress import Progress

__all__ = [
    "BuiltSilicon",
    "Silicon",
    "build_changed",
    "build_silicon",
    "check_copy",
    "driver_digest",
    "driver_source",
    "read_silicon",
    "silicon_drivers",
]

SILICON = PROJECT / "fixtures" / "silicon"
_FILE = "silicon.yaml"
_Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,56}$")]
_Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Silicon(BaseModel):
    """What `silicon.yaml` says; unknown keys are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    module: _Name
    """The driver's module, as /proc/modules spells it."""
    source: _Folder
    """Its folder in the kernel's source: every .c and .h of it and its Makefile are taken."""
    config: tuple[Annotated[str, Field(pattern=r"^CONFIG_[A-Z0-9_]+$")], ...]
    """Symbols that its Makefile asks for, set to m while it is built."""
    model: _Name
    """The model's module: the name of the one whose place it takes, and which is the PF's driver."""
    function: _Folder
    """The folder beside this one with what drives the function behind the model."""
    port: Annotated[int, Field(ge=SILICON_PORTS.start, lt=SILICON_PORTS.stop)]
    """The root port of the lab's machine that its controller is plugged into; no two have the same."""
    vfs: Annotated[int, Field(ge=1, le=4)] = 1
    """How many virtual functions its controller is to have."""
    renames: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.h$")] | None = None
    """A header of this folder that is put in front of every file of both: for a model that cannot export a
    symbol by its own name, for the lab's kernel does."""
    mainline: Mapping[str, _Sha256] = Field(default_factory=dict)
    """Kernel release -> sha256 over the driver's files as that release has them (`BuiltSilicon.sha256`)."""


@dataclass(frozen=True)
class BuiltSilicon:
    """The two modules of one driver, and what the driver was made from.

    `sha256` is over all files of the driver; `mainline` says whether it is the one known of the kernel's
    release, None where none is known.
    """

    model: Path
    driver: Path
    sha256: str
    mainline: bool | None


@cache
def silicon_drivers() -> Mapping[str, Path]:
    """The folder of each driver that has a model, by the driver's module; UsageError for a wrong file."""
    found: dict[str, Path] = {}
    ports: dict[int, str] = {}
    for file in sorted(SILICON.glob(f"*/{_FILE}")):
        silicon = read_silicon(file.parent)
        if silicon.module in found:
            raise UsageError(
                f"{file}: module='{silicon.module}' has a folder already: {found[silicon.module]}"
            )
        if silicon.port in ports:
            raise UsageError(f"{file}: port={silicon.port} is that of '{ports[silicon.port]}'")
        found[silicon.module] = file.parent
        ports[silicon.port] = silicon.module
    return found


def read_silicon(folder: Path) -> Silicon:
    """`silicon.yaml` of a folder; UsageError names what is wrong in it."""
    file = folder / _FILE
    try:
        # By way of JSON: in strict mode only JSON input may give a list where the model has a tuple.
        silicon = Silicon.model_validate_json(json.dumps(yaml.safe_load(file.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()[:5])
        raise UsageError(f"{file}: {wrong}") from None
    if not (folder.parent / silicon.function).is_dir():
        raise UsageError(f"{file}: function='{silicon.function}' is no folder of {folder.parent}")
    if silicon.renames is not None and not (folder / silicon.renames).is_file():
        raise UsageError(f"{file}: renames='{silicon.renames}' is no file of {folder}")
    return silicon


def build_silicon(kernel: KernelBuild, folder: Path, progress: Progress) -> BuiltSilicon:
    """Model and driver of a folder, built once for each content of both.

    LabError with the compiler's words where one does not build, and where what was compiled is not, byte for
    byte, what the kernel's source has; UsageError where the kernel has no source.
    """
    silicon = read_silicon(folder)
    source = driver_source(kernel, silicon)
    modules, copy = _build(kernel, folder, silicon, _driver_files(source), progress)
    check_copy(copy, source)
    digest = driver_digest(source)
    known = silicon.mainline.get(kernel.release.split("-")[0])
    return BuiltSilicon(
        modules[silicon.model], modules[silicon.module], digest, None if known is None else known == digest
    )


def build_changed(kernel: KernelBuild, folder: Path, driver: Path, progress: Progress) -> Path:
    """The driver's module built from the files in `driver` instead of the kernel's: a defect seeded into it.

    LabError with the compiler's words where it does not build, and where it comes out as the kernel's own.
    """
    silicon = read_silicon(folder)
    changed = _build(kernel, folder, silicon, _driver_files(driver), progress)[0][silicon.module]
    if changed.read_bytes() == build_silicon(kernel, folder, progress).driver.read_bytes():
        raise LabError(f"{driver}: what is changed there changes nothing of module {silicon.module}")
    return changed


def driver_source(kernel: KernelBuild, silicon: Silicon) -> Path:
    """The driver's folder in the kernel's source; UsageError where the kernel has none."""
    if kernel.source_tree is None:
        raise UsageError(f"kernel {kernel.release} has no source to take {silicon.source} from")
    return kernel.source_tree / silicon.source


def _build(
    kernel: KernelBuild, folder: Path, silicon: Silicon, driver: Mapping[str, bytes], progress: Progress
) -> tuple[Mapping[str, Path], Path]:
    """The modules by name, and the folder with the copy of the driver that was compiled."""
    model = {**source_files(folder.parent / silicon.function), **source_files(folder)}
    files = {
        "Kbuild": _kbuild(silicon),
        **{f"model/{name}": data for name, data in model.items()},
        **{f"driver/{name}": data for name, data in driver.items()},
    }
    options = [f"{symbol}=m" for symbol in silicon.config]
    # Headers ask for the symbol's macro; the kernel's own configuration has it off.
    options.append("KCFLAGS=" + " ".join(f"-D{symbol}_MODULE=1" for symbol in silicon.config))
    built = build_sources(kernel, f"{silicon.module} and its model", files, options, progress)
    by_name = {path.stem.replace("-", "_"): path for path in built.modules}
    for wanted in (silicon.model, silicon.module):
        if wanted not in by_name:
            said = ", ".join(sorted(by_name)) or "none"
            raise LabError(f"{folder}: no module {wanted} was built, but {said}")
    return by_name, built.source / "driver"


def _kbuild(silicon: Silicon) -> bytes:
    lines = ["obj-m := model/ driver/"]
    if silicon.renames is not None:
        lines.append(f"subdir-ccflags-y := -include $(src)/model/{silicon.renames}")
    return "".join(f"{line}\n" for line in lines).encode()


def check_copy(copy: Path, source: Path) -> None:
    """LabError where the folder `copy` is not, byte for byte, the driver in the folder `source`."""
    ours, theirs = _hashes(_driver_files(copy)), _hashes(_driver_files(source))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise LabError(
                f"{copy / name} has sha256 {ours.get(name, 'none')}, but {source / name} has "
                f"{theirs.get(name, 'none')}: what was compiled is not the kernel's driver"
            )


def driver_digest(folder: Path) -> str:
    """One hash of a driver's files in a folder: that of the lines `sha256sum` prints for them, by name."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_hashes(_driver_files(folder)).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _driver_files(folder: Path) -> dict[str, bytes]:
    if not (folder / "Makefile").is_file():
        raise UsageError(f"{folder}: this kernel's source has no such driver")
    return {name: data for name, data in source_files(folder).items() if name != "Kbuild"}


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
