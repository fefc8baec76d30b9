# SPDX-License-Identifier: Apache-2.0
"""The embedded lab as its users see it: up, an SSH address with pinned keys, reset, down.

lab = EmbeddedLab.up(name="mine")
... SSH to lab.address:lab.port as lab.user with lab.key_path and lab.known_hosts_path ...
lab.reset()     # a fresh machine at the same address
lab.down()
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import LabError, UsageError
from harness.lab.frame import Frame, obtain_frame
from harness.lab.image import base_image
from harness.lab.instance import Instance
from harness.lab.keeper import owned, start_time
from harness.lab.kernel import KernelBuild, load_kernel, obtain_kernel
from harness.lab.machine import command_line, find_qemu, nvme_controller, plugged_devices
from harness.lab.places import cache_dir, locked, run_dir
from harness.progress import NoProgress, Progress

__all__ = ["DEFAULT_IDLE_LIMIT_S", "EmbeddedLab", "attach", "list_labs", "new_name"]

DEFAULT_IDLE_LIMIT_S = 900.0
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,39}$")
_RESUME_TIMEOUT_S = {"plain": 120.0, "debug": 300.0, "gcov": 120.0}
_LOCK_TIMEOUT_S = 600.0


def new_name(prefix: str = "run") -> str:
    """A lab name that no other run has."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class _State:
    """What `state.json` of a lab says; made at `up`, never changed."""

    port: int
    kernel_folder: str
    kernel_release: str
    flavour: str
    accel: str
    accel_why: str
    memory_mib: int
    frame_folder: str
    idle_limit_s: float
    started: float
    scratch_gib: int = 0


class EmbeddedLab:
    """One lab that was brought up, by this process or another; see the module for its use.

    Every process that holds one keeps the lab alive until it ends or calls `release`; after that the lab
    goes away by itself when nobody has used it for its idle limit.
    """

    def __init__(self, folder: Path, state: _State) -> None:
        self._folder = folder
        self._state = state
        self._instance = Instance(folder)

    @classmethod
    def up(
        cls,
        *,
        name: str,
        kernel: str | None = None,
        flavour: str = "plain",
        memory_mib: int | None = None,
        idle_limit_s: float = DEFAULT_IDLE_LIMIT_S,
        scratch_gib: int = 0,
        progress: Progress | None = None,
    ) -> EmbeddedLab:
        """A new lab called `name`, ready for SSH: seconds with a warm cache, minutes where a kernel is built.

        `kernel` is what `--kernel` takes; `memory_mib` defaults to 1024, 2048 for debug; `scratch_gib` is the
        size of a sparse disk for streams that are longer than its memory.  UsageError for a wrong argument, a
        name in use, or a missing program; LabError where it does not come up.
        """
        report = progress or NoProgress()
        if not _NAME.match(name):
            raise UsageError(
                f"lab name {name!r}: allowed are 1 to 40 of a-z 0-9 . _ -, first a letter or digit"
            )
        memory = memory_mib if memory_mib is not None else (2048 if flavour == "debug" else 1024)
        if not 256 <= memory <= 65536:
            raise UsageError(f"lab memory {memory} MiB is not within 256..65536")
        if not 0 <= scratch_gib <= 1024:
            raise UsageError(f"lab scratch {scratch_gib} GiB is not within 0..1024")
        if not 10 <= idle_limit_s <= 86400 * 7:
            raise UsageError(f"idle limit {idle_limit_s:g} s is not within 10..604800")
        try:
            return cls._up(name, kernel, flavour, memory, idle_limit_s, scratch_gib, report)
        except OSError as error:  # a full disk, for one: never the device, never a bug
            raise LabError(f"lab {name!r} could not be made: {error}") from None

    @classmethod
    def _up(
        cls, name: str, kernel: str | None, flavour: str, memory: int, idle_limit_s: float, scratch_gib: int,
        report: Progress,
    ) -> EmbeddedLab:  # fmt: skip
        qemu = find_qemu()
        build = obtain_kernel(kernel, flavour, report)
        image = base_image(build, report)
        frame = obtain_frame(build, image, qemu, memory, report)
        folder = run_dir() / name
        with _name_lock(name):
            if Instance(folder).alive():
                raise UsageError(f"lab {name!r} is up already; 'vfiocert lab down {name}' ends it")
            _remove(folder)
            folder.mkdir(mode=0o700)
            instance = Instance(folder)
            report.step(f"starting lab {name!r} ({qemu.accel})")
            scratch = _make_scratch(name, scratch_gib)
            try:
                _own(folder)
                port = instance.start(
                    lambda port: command_line(
                        qemu,
                        folder,
                        kernel=build.bzimage,
                        initrd=frame.initrd,
                        memory_mib=memory,
                        port=port,
                        resume=frame.state,
                        scratch=scratch,
                    ),
                    port=None,
                    idle_limit_s=idle_limit_s,
                )
                state = _State(
                    port,
                    str(build.folder),
                    build.release,
                    build.flavour,
                    qemu.accel,
                    qemu.why,
                    memory,
                    str(frame.folder),
                    idle_limit_s,
                    time.time(),
                    scratch_gib,
                )
                _write_access(folder, frame, port)
                lab = cls(folder, state)
                lab._ready(report)
                # Last: a folder without it is a lab that never came up.
                (folder / "state.json").write_text(json.dumps(state.__dict__, indent=1), encoding="utf-8")
            except BaseException:
                instance.stop()
                _remove(folder)
                raise
            finally:
                _forget_scratch(scratch)
        return lab

    @property
    def name(self) -> str:
        """The lab's name, unique on this machine."""
        return self._folder.name

    @property
    def address(self) -> str:
        """Where SSH answers: always the loopback."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """SSH's TCP port; the same after a reset."""
        return self._state.port

    @property
    def user(self) -> str:
        """The user to log in as."""
        return "root"

    @property
    def key_path(self) -> Path:
        """The private key (OpenSSH, ed25519), mode 0600."""
        return self._folder / "id_ed25519"

    @property
    def known_hosts_path(self) -> Path:
        """A known_hosts file with the lab's one host key, for `[127.0.0.1]:port`."""
        return self._folder / "known_hosts"

    @property
    def kernel_release(self) -> str:
        """What `uname -r` says in the lab."""
        return self._state.kernel_release

    @property
    def kernel(self) -> KernelBuild:
        """The kernel it runs: headers, modules, build tree."""
        return load_kernel(Path(self._state.kernel_folder))

    @property
    def accel(self) -> str:
        """`kvm` or `tcg`."""
        return self._state.accel

    @property
    def qemu_pid(self) -> int | None:
        """Process id of QEMU while it runs."""
        return self._instance.qemu_pid()

    @property
    def keeper_pid(self) -> int | None:
        """Process id of QEMU's keeper while it runs."""
        return self._instance.keeper_pid()

    def reset(self, progress: Progress | None = None) -> None:
        """A fresh machine at the same address, from the saved one: guest and devices keep nothing.

        Works whatever the guest did, also after its crash.  SSH connections must be made anew.
        """
        report = progress or NoProgress()
        frame = Path(self._state.frame_folder)
        build = self.kernel
        qemu = find_qemu()
        with _name_lock(self.name):
            if not (self._folder / "state.json").is_file():
                raise LabError(f"lab {self.name!r} is gone; bring it up again")
            report.step(f"resetting lab {self.name!r}")
            self._instance.stop()
            scratch = _make_scratch(self.name, self._state.scratch_gib)
            try:
                self._instance.start(
                    lambda port: command_line(
                        qemu,
                        self._folder,
                        kernel=build.bzimage,
                        initrd=frame / "initrd",
                        memory_mib=self._state.memory_mib,
                        port=port,
                        resume=frame / "state",
                        scratch=scratch,
                    ),
                    port=self.port,
                    idle_limit_s=self._state.idle_limit_s,
                )
                self._ready(report)
            finally:
                _forget_scratch(scratch)

    def plug(self, port: int) -> None:
        """An NVMe controller with virtual functions at an empty root port (`SILICON_PORTS`), until a reset.

        The guest finds it when it scans its buses.  UsageError where this QEMU's controller has no VFs;
        LabError where QEMU does not take it, for instance because it is there already.
        """
        if not find_qemu().nvme_sriov:
            raise UsageError(f"{find_qemu().version} has no NVMe controller with VFs; 7.2 and newer have")
        with self._instance.qmp() as qmp:
            qmp.execute("device_add", nvme_controller(port))

    def down(self) -> None:
        """Ends the lab and removes all of it; nothing to do where it is gone."""
        with _name_lock(self.name, remove=True):
            self._instance.stop()
            _remove(self._folder)

    def alive(self) -> bool:
        """Whether its QEMU runs (the guest may have crashed all the same)."""
        return self._instance.alive()

    def console_tail(self, lines: int = 40) -> str:
        """The last `lines` lines of the guest's serial console and of QEMU's errors."""
        return self._instance.console_tail(lines)

    def touch(self) -> None:
        """Starts the idle time anew."""
        with contextlib.suppress(OSError):
            self._instance.touch()

    def release(self) -> None:
        """This process needs the lab no longer; it may go once nobody else does."""
        with contextlib.suppress(OSError):
            _owner_file(self._folder).unlink(missing_ok=True)

    def describe(self) -> dict[str, Any]:
        """What `lab status --json` prints of it."""
        return {
            "name": self.name,
            "alive": self.alive(),
            "address": self.address,
            "port": self.port,
            "user": self.user,
            "key": str(self.key_path),
            "known_hosts": str(self.known_hosts_path),
            "kernel": self.kernel_release,
            "flavour": self._state.flavour,
            "accel": self.accel,
            "accel_why": self._state.accel_why,
            "memory_mib": self._state.memory_mib,
            "qemu_pid": self.qemu_pid,
            "owned": owned(self._folder),
            "idle_limit_s": self._state.idle_limit_s,
            "started": self._state.started,
        }

    def _ready(self, progress: Progress) -> None:
        deadline = time.monotonic() + _RESUME_TIMEOUT_S[self._state.flavour]
        self._instance.resumed(plugged_devices(find_qemu()), deadline, progress)
        self._instance.wait_ssh(self.port, deadline, progress)


def attach(name: str, *, own: bool = True) -> EmbeddedLab:
    """The lab `name` that is up; with `own` this process keeps it alive.  UsageError lists those that are."""
    folder = run_dir() / name
    state = _read_state(folder) if _NAME.match(name) else None
    if state is None or not Instance(folder).alive():
        names = [lab.name for lab in list_labs() if lab.alive()]
        raise UsageError(
            f"lab {name!r} is not up; up: {', '.join(names) or 'none'}; 'vfiocert lab up {name}' brings it up"
        )
    if own:
        _own(folder)
    return EmbeddedLab(folder, state)


def list_labs() -> list[EmbeddedLab]:
    """Every lab of this user, also one whose QEMU has died; by name."""
    labs: list[EmbeddedLab] = []
    for folder in sorted(run_dir().iterdir()):
        state = _read_state(folder) if _NAME.match(folder.name) and folder.is_dir() else None
        if state is not None:
            labs.append(EmbeddedLab(folder, state))
    return labs


def _name_lock(name: str, *, remove: bool = False) -> contextlib.AbstractContextManager[None]:
    path = run_dir() / f".{name}.lock"
    return locked(path, timeout_s=_LOCK_TIMEOUT_S, what=f"lab {name!r}", remove=remove)


def _own(folder: Path) -> None:
    (folder / "owners").mkdir(mode=0o700, exist_ok=True)
    _owner_file(folder).touch()


def _owner_file(folder: Path) -> Path:
    return folder / "owners" / f"{os.getpid()}.{start_time(os.getpid())}"


def _write_access(folder: Path, frame: Frame, port: int) -> None:
    handle = os.open(folder / "id_ed25519", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:
        file.write(frame.private_key.read_bytes())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {frame.host_key}\n", encoding="ascii")


def _make_scratch(name: str, gib: int) -> Path | None:
    """A sparse file for the scratch disk of the lab `name`; None where it has none."""
    if not gib:
        return None
    path = cache_dir("scratch") / name
    with path.open("wb") as file:
        file.truncate(gib << 30)
    return path


def _forget_scratch(path: Path | None) -> None:
    """Take the file's name away: QEMU has it open, and it goes with QEMU, however that ends."""
    if path is not None:
        path.unlink(missing_ok=True)


def _read_state(folder: Path) -> _State | None:
    try:
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return _State(**values)
    except (OSError, ValueError, TypeError):
        return None


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
