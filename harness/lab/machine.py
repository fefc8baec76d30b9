# SPDX-License-Identifier: Apache-2.0
"""The QEMU machine of the lab: its accelerator and its command line.

The machine has two parts.  The *frame* (CPU, memory, IOMMU, network, bridges, ports) is booted once and
saved.  The *devices* are what tests drive; QEMU cannot save them (`nvme`) or would restore them without
their state (`edu`).  So they are not in the saved machine: every machine is resumed with fresh devices
added, and the guest is told to scan its PCI buses.

One exception: the `edu` devices on the root bus are there from the start, because QEMU's DMAR table lists
each device of the root bus, and the kernel puts no device under the IOMMU that is not in that table.  They
come back in their power-on state, while the guest believes them initialised, so it removes them first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.places import cache_dir

__all__ = [
    "SILICON_PORTS",
    "Qemu",
    "command_line",
    "device_arguments",
    "find_qemu",
    "nvme_controller",
    "plugged_devices",
    "root_port",
]

_PROGRAM = "qemu-system-x86_64"
# panic=-1 with -no-reboot: a guest that panics ends QEMU, so that the caller does not wait in vain.
# no5lvl: with 5-level paging an interrupt in identify_cpu() makes a false KASAN report, and KASAN reports
# only the first error and turns lockdep off with it; kasan_multi_shot: report every error.
_APPEND = "console=ttyS0 quiet panic=-1 no5lvl kasan_multi_shot intel_iommu=on iommu=pt rdinit=/init"
_QUERY_TIMEOUT_S = 30
_KVM_PROBE_S = 1.5

# The address identifies the device in the guest and in the lab file (labs.yaml).
_DEVICES: tuple[tuple[str, str, str], ...] = (
    ("edu", "edu,addr=01.0,bus=bridge0", "behind the bridge"),
    ("pci-testdev", "pci-testdev,addr=02.0,bus=bridge0", "behind the bridge"),
    # Not in the DMAR table of the saved machine, so the kernel finds no IOMMU for it: for no-IOMMU mode.
    ("edu", "edu,addr=09.0,bus=pcie.0", "without an IOMMU"),
    ("igb", "igb,bus=port1", "SR-IOV network controller, QEMU 8.0 and newer"),
)
SILICON_PORTS = range(2, 8)
"""Root ports that are empty until a modelled device is wanted: each has room for one controller with VFs."""


def root_port(number: int) -> str:
    """The PCI address of root port `number`, one of `SILICON_PORTS`."""
    return f"0000:00:0a.{number - SILICON_PORTS.start}"


def nvme_controller(number: int) -> dict[str, object]:
    """Arguments of QMP's `device_add` for an NVMe controller with virtual functions at root port `number`.

    QEMU refuses to load a saved machine with an `nvme` in it, so it is plugged in after the load.  No
    namespace: the admin queue is what tests use, and `nvme-ns` cannot be plugged in later.
    """
    return {
        "driver": "nvme",
        "id": f"nvme{number}",
        "bus": f"port{number}",
        "subsys": f"subsys{number}",
        "serial": "vfiocert" if number == 0 else f"vfiocert{number}",
        "max_ioqpairs": 10,
        "msix_qsize": 16,
        "sriov_max_vfs": 4,
        "sriov_vq_flexible": 8,
        "sriov_vi_flexible": 4,
    }


@dataclass(frozen=True)
class Qemu:
    """A QEMU that works here: `accel` is kvm or tcg, `why` says why it is not kvm."""

    program: str
    version: str
    accel: str
    why: str
    devices: frozenset[str]
    nvme_sriov: bool


@cache
def find_qemu() -> Qemu:
    """Find this machine's QEMU; UsageError if it is missing or cannot run the lab."""
    version = _query("--version").splitlines()[0]
    devices = frozenset(re.findall(r'^name "([^"]+)"', _query("-device", "help"), re.M))
    for name in ("intel-iommu", "edu", "pcie-pci-bridge", "virtio-net-pci"):
        if name not in devices:
            raise UsageError(f"{version} has no device {name!r}; 7.2 and newer of qemu-system-x86 have")
    nvme_sriov = "nvme" in devices and "sriov_max_vfs" in _query("-device", "nvme,help")
    accel, why = _accelerator(version)
    return Qemu(_PROGRAM, version, accel, why, devices, nvme_sriov)


def command_line(
    qemu: Qemu, folder: Path, *, kernel: Path, initrd: Path, memory_mib: int, port: int, resume: Path | None,
    scratch: Path | None = None,
) -> list[str]:  # fmt: skip
    """QEMU's arguments for a lab in `folder`; `resume` is the saved frame, or None to boot.

    `scratch`: the file of a disk that a resumed lab puts long streams on (harness/lab/init/control.py).
    """
    accel = ["-accel", "kvm", "-cpu", "host"] if qemu.accel == "kvm" else ["-accel", "tcg", "-cpu", "max"]
    argv = [
        qemu.program,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-name",
        folder.name,
        "-M",
        "q35,kernel-irqchip=split",
        *accel,
        "-smp",
        "1",
        "-m",
        str(memory_mib),
        "-no-reboot",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initrd),
        "-append",
        _APPEND,
        "-device",
        "intel-iommu,intremap=on",
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-chardev",
        f"socket,id=control,path={folder}/control,server=on,wait=off",
        "-serial",
        "chardev:control",
        "-qmp",
        f"unix:{folder}/qmp,server=on,wait=off",
        # restrict: the guest has no network beyond its SSH port, which only this machine reaches.
        "-netdev",
        f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22",
        "-device",
        "virtio-net-pci,netdev=net0,addr=02.0,bus=pcie.0,romfile=",
        "-device",
        "virtio-rng-pci,addr=03.0,bus=pcie.0",
        "-device",
        "edu,addr=04.0,bus=pcie.0",
        "-device",
        "edu,addr=05.0,bus=pcie.0",
        "-device",
        "pcie-pci-bridge,id=bridge0,addr=06.0,bus=pcie.0",
        # The guest finds devices by a scan, not by hot plug: the ports must not keep them powered off.
        "-device",
        "pcie-root-port,id=port0,chassis=1,slot=1,addr=07.0,bus=pcie.0,"
        "power_controller_present=off,bus-reserve=2,mem-reserve=4M",
        "-device",
        "pcie-root-port,id=port1,chassis=2,slot=2,addr=08.0,bus=pcie.0,hotplug=off,"
        "bus-reserve=2,mem-reserve=4M",
    ]
    for n in SILICON_PORTS:
        place = f"addr=0a.{n - SILICON_PORTS.start}" + (
            ",multifunction=on" if n == SILICON_PORTS.start else ""
        )
        argv += [
            "-device",
            f"pcie-root-port,id=port{n},chassis={n + 1},slot={n + 1},{place},power_controller_present=off,"
            "bus-reserve=2,mem-reserve=4M",
        ]
    if resume is not None:
        argv += ["-incoming", f"exec:exec cat {_shell_quoted(str(resume))}", *device_arguments(qemu)]
    if resume is not None and scratch is not None:
        argv += ["-drive", f"file={scratch},if=none,id=scratch,format=raw,cache=unsafe"]
        argv += ["-device", "virtio-blk-pci,drive=scratch,addr=0a.0,bus=pcie.0"]
    return argv


def device_arguments(qemu: Qemu) -> list[str]:
    """Arguments for the devices that tests drive, of those this QEMU has."""
    argv: list[str] = []
    for name, device, _ in _DEVICES:
        if name in qemu.devices:
            argv += ["-device", device]
    if qemu.nvme_sriov:
        for n in (0, *SILICON_PORTS):
            argv += ["-device", f"nvme-subsys,id=subsys{n}"]
    return argv


def plugged_devices(qemu: Qemu) -> list[dict[str, object]]:
    """Arguments of QMP's `device_add` for devices that can be added only to a running machine."""
    return [nvme_controller(0)] if qemu.nvme_sriov else []


def _shell_quoted(text: str) -> str:
    # QEMU passes the text to sh; -incoming has no option parsing, so a comma needs no escape.
    return "'" + text.replace("'", "'\\''") + "'"


def _accelerator(version: str) -> tuple[str, str]:
    """Try to start a virtual CPU: ("kvm", "") or ("tcg", why).  QEMU may abort even with a /dev/kvm."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg", "/dev/kvm is missing or not accessible"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    known = cache_dir("accel") / hashlib.sha256(f"{boot} {version}".encode()).hexdigest()[:24]
    try:
        accel, why = json.loads(known.read_text(encoding="utf-8"))
        if accel in {"kvm", "tcg"}:
            return str(accel), str(why)
    except (OSError, ValueError):
        pass
    accel, why = _probe_kvm()
    part = known.with_name(f".{known.name}.{os.getpid()}")
    part.write_text(json.dumps([accel, why]), encoding="utf-8")
    part.replace(known)
    return accel, why


def _probe_kvm() -> tuple[str, str]:
    def without_core() -> None:  # an abort is expected, and its core file is useless
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    process = subprocess.Popen(
        [
            _PROGRAM,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-M",
            "q35,kernel-irqchip=split",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "64",
            "-device",
            "intel-iommu,intremap=on",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=without_core,
        text=True,
        errors="replace",
    )
    try:
        _, errors = process.communicate(timeout=_KVM_PROBE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "kvm", ""
    first = (errors.strip().splitlines() or [f"QEMU ended with status {process.returncode}"])[0]
    return "tcg", f"KVM does not work here: {first[:200]}"


def _query(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [_PROGRAM, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUERY_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(f"program {_PROGRAM!r} is missing: apt-get install qemu-system-x86") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{_PROGRAM} {' '.join(arguments)} did not end within {_QUERY_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise LabError(f"{_PROGRAM} {' '.join(arguments)} failed: {done.stderr.strip()[:200]}")
    return done.stdout
