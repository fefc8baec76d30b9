# SPDX-License-Identifier: Apache-2.0
"""Real `modules.alias` lines of drivers that the lab does not run, from the kernel's own id tables.

    python -m harness.lab.aliases FILE

Compiles only the objects that hold the id tables (a minute), and lets the kernel's own modpost write their
aliases; none is written by hand.  FILE begins with the source's version and this command.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import LabError, VfiocertError
from harness.lab.places import project_path
from harness.lab.source import obtain_source, parse_origin
from harness.lab.watched import watched
from harness.progress import Progress, open_progress

__all__ = ["OBJECTS", "write_aliases"]

OBJECTS: tuple[tuple[str, str], ...] = (
    ("vfio_pci", "drivers/vfio/pci/vfio_pci.o"),
    ("mlx5_vfio_pci", "drivers/vfio/pci/mlx5/main.o"),
    ("hisi_acc_vfio_pci", "drivers/vfio/pci/hisilicon/hisi_acc_vfio_pci.o"),
    ("pds_vfio_pci", "drivers/vfio/pci/pds/pci_drv.o"),
    ("qat_vfio_pci", "drivers/vfio/pci/qat/main.o"),
    ("virtio_vfio_pci", "drivers/vfio/pci/virtio/main.o"),
    ("nvgrace_gpu_vfio_pci", "drivers/vfio/pci/nvgrace-gpu/main.o"),
    ("xe_vfio_pci", "drivers/vfio/pci/xe/main.o"),
    ("mlx5_core", "drivers/net/ethernet/mellanox/mlx5/core/main.o"),
    ("hisi_sec2", "drivers/crypto/hisilicon/sec2/sec_main.o"),
    ("hisi_hpre", "drivers/crypto/hisilicon/hpre/hpre_main.o"),
    ("hisi_zip", "drivers/crypto/hisilicon/zip/zip_main.o"),
    ("pds_core", "drivers/net/ethernet/amd/pds_core/main.o"),
    ("qat_4xxx", "drivers/crypto/intel/qat/qat_4xxx/adf_drv.o"),
    ("qat_420xx", "drivers/crypto/intel/qat/qat_420xx/adf_drv.o"),
    ("qat_6xxx", "drivers/crypto/intel/qat/qat_6xxx/adf_drv.o"),
    ("virtio_pci", "drivers/virtio/virtio_pci_common.o"),
    ("xe", "drivers/gpu/drm/xe/xe_pci.o"),
    ("nvme", "drivers/nvme/host/pci.o"),
    ("igb", "drivers/net/ethernet/intel/igb/igb_main.o"),
)
"""Each module, and its object that holds the PCI id table.  (drivers/vfio/pci/ism needs s390.)"""

_MAKE_TIMEOUT_S = 1800.0
_ALIAS = re.compile(r'^MODULE_ALIAS\("((?:vfio_)?pci:[^"]+)"\);$', re.M)
_HEADER = """\
# SPDX-License-Identifier: GPL-2.0-only
# Aliases of the modules named here, as depmod writes them.
# source: Linux ({version}), id tables compiled with harness/lab/config/aliases.config
# made by: python -m harness.lab.aliases suites/sel/data/modules.alias
"""


def write_aliases(target: Path, kernel: str | None, progress: Progress) -> int:
    """Write the aliases of `OBJECTS` in the source that `kernel` names to `target`; return how many.

    LabError if an object does not compile or has no alias, so that a table that moved is noticed.
    """
    source = obtain_source(parse_origin(kernel), progress)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vfiocert-aliases-") as scratch:
        build = Path(scratch) / "build"
        build.mkdir()
        make = ["make", "-C", str(source.tree), f"O={build}"]
        merge = [str(source.tree / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(build)]
        steps = [
            [*make, "tinyconfig"],
            [*merge, str(build / ".config"), str(project_path("config/aliases.config"))],
            [*make, "olddefconfig"],
            [*make, "-j2", "prepare", "modules_prepare"],
            [*make, "-j2", *(path for _, path in OBJECTS)],
        ]
        for number, step in enumerate(steps):
            progress.step(f"compiling id tables ({number + 1}/{len(steps)})")
            watched(step, None, _MAKE_TIMEOUT_S, progress, lambda: None)
        for module, path in OBJECTS:
            lines += [f"alias {alias} {module}" for alias in _aliases(build, module, path)]
    header = _HEADER.format(version=source.version)
    target.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def _aliases(build: Path, module: str, path: str) -> list[str]:
    """The aliases that modpost writes for one object, which stands for its whole module."""
    folder = build / "aliases" / module
    folder.mkdir(parents=True)
    # modpost requires a licence, which may be in another object of the module, and a list of sources if the
    # module has a version.
    (folder / "licence.s").write_text('.section .modinfo,"a"\n.asciz "license=GPL"\n', encoding="ascii")
    (folder / f".{module}.o.cmd").write_text(
        "source_none := /dev/null\ndeps_none := \\\n\n", encoding="ascii"
    )
    (folder / f"{module}.mod").write_text(f"{module}.o\n", encoding="ascii")
    for command in (
        ["as", "-o", "licence.o", "licence.s"],
        ["ld", "-r", "-o", f"{module}.o", str(build / path), "licence.o"],
        # -w, -n: symbols of the module's other objects are missing; the result is never linked.
        [str(build / "scripts/mod/modpost"), "-w", "-n", "-o", "symvers", f"{module}.o"],
    ):
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()]
            raise LabError(f"{command[0].rpartition('/')[2]} of {path} failed: {errors[0][-300:]}")
    found = _ALIAS.findall((folder / f"{module}.mod.c").read_text(encoding="utf-8"))
    if not found:
        raise LabError(f"{path} has no PCI id table; correct OBJECTS in harness/lab/aliases.py")
    return found


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m harness.lab.aliases FILE [KERNEL]\n")
        return 2
    try:
        with open_progress() as progress:
            count = write_aliases(Path(arguments[0]), arguments[1] if len(arguments) > 1 else None, progress)
    except VfiocertError as error:
        sys.stderr.write(f"vfiocert: {error}\n")
        return error.exit_code
    print(f"{arguments[0]}: {count} aliases")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
