# SPDX-License-Identifier: Apache-2.0
"""The saved machine: booted once, with keys of its own, and resumed for every lab in well under a second.

QEMU's own migration writes the stopped machine to a file, which many labs read at the same time (an
internal snapshot of a qcow2 disk would have to be copied for each).  A cache entry holds `state`,
`initrd`, `host_key.pub` and the private key `id_ed25519`; so it is readable by its owner only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.image import Image, key_archive
from harness.lab.instance import Instance
from harness.lab.kernel import KernelBuild
from harness.lab.machine import Qemu, command_line
from harness.lab.places import cache_dir, made_once, prune, run_dir, use_directory
from harness.progress import Progress

__all__ = ["Frame", "obtain_frame"]

_RECIPE = 1
_BOOT_TIMEOUT_S = {"plain": 300.0, "debug": 900.0, "gcov": 300.0}
_SAVE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Frame:
    """A cached saved machine; `host_key` is `ssh-ed25519 AAAA...`."""

    folder: Path
    host_key: str

    @property
    def state(self) -> Path:
        """The saved machine."""
        return self.folder / "state"

    @property
    def initrd(self) -> Path:
        """The archives it was booted with (QEMU wants them again at resume)."""
        return self.folder / "initrd"

    @property
    def private_key(self) -> Path:
        """The key that may log in as root."""
        return self.folder / "id_ed25519"


def obtain_frame(kernel: KernelBuild, image: Image, qemu: Qemu, memory_mib: int, progress: Progress) -> Frame:
    """The saved machine of these parts, booted and saved when the cache has none.

    LabError with the console's end where it does not boot.
    """
    final = cache_dir("frame") / _frame_key(kernel, image, qemu, memory_mib)
    boot_timeout_s = _BOOT_TIMEOUT_S[kernel.flavour]
    with made_once(
        final, timeout_s=boot_timeout_s + 120, what="booting the lab once", progress=progress
    ) as part:
        if part is not None:
            part.chmod(0o700)
            _make_keys(part)
            _make_initrd(part, image)
            _boot_and_save(part, kernel, qemu, memory_mib, boot_timeout_s, progress)
            prune(final.parent)
    use_directory(final)
    return Frame(final, (final / "host_key.pub").read_text(encoding="ascii").strip())


def _boot_and_save(
    part: Path, kernel: KernelBuild, qemu: Qemu, memory_mib: int, timeout_s: float, progress: Progress
) -> None:
    progress.step(f"booting the lab once (Linux {kernel.release}, {qemu.accel})")
    folder = Path(tempfile.mkdtemp(prefix=".frame-", dir=run_dir()))
    instance = Instance(folder)
    try:
        port = instance.start(
            lambda port: command_line(
                qemu,
                folder,
                kernel=kernel.bzimage,
                initrd=part / "initrd",
                memory_mib=memory_mib,
                port=port,
                resume=None,
            ),
            port=None,
            idle_limit_s=timeout_s + 60,
        )
        deadline = time.monotonic() + timeout_s
        token = os.urandom(4).hex()
        instance.ask(f"ping {token}", f"pong {token}", deadline, progress)
        instance.wait_ssh(port, deadline, progress)
        time.sleep(0.3)  # that connection's server process ends, and is not saved
        progress.step("saving the booted lab")
        _save(instance, part / "state", progress)
    finally:
        instance.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _save(instance: Instance, state: Path, progress: Progress) -> None:
    quoted = "'" + str(state).replace("'", "'\\''") + "'"
    with instance.qmp() as qmp:
        qmp.execute("stop")
        qmp.execute("migrate-set-parameters", {"max-bandwidth": 64 << 30})
        qmp.execute("migrate", {"uri": f"exec:exec cat > {quoted}"})
        deadline = time.monotonic() + _SAVE_TIMEOUT_S
        while True:
            answer = qmp.execute("query-migrate")
            status = answer.get("status") if isinstance(answer, dict) else None
            if status == "completed":
                break
            if status in {"failed", "cancelled"}:
                raise LabError(f"QEMU could not save the booted lab: {answer.get('error-desc', status)}")
            if time.monotonic() > deadline:
                raise LabError(f"QEMU did not save the booted lab within {_SAVE_TIMEOUT_S:.0f} s")
            progress.tick(None)
            time.sleep(0.05)
    # "completed" is QEMU's side of the pipe; the file is whole when cat has ended with it.
    size = -1
    while state.stat().st_size != size and time.monotonic() < deadline:
        size = state.stat().st_size
        time.sleep(0.1)


def _make_keys(part: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    handle = os.open(part / "id_ed25519", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (part / "id_ed25519.pub").write_bytes(public + b" vfiocert\n")
    try:
        done = subprocess.run(
            ["dropbearkey", "-t", "ed25519", "-f", str(part / "host_key")],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError("program 'dropbearkey' is missing: apt-get install dropbear-bin") from None
    except subprocess.SubprocessError as error:
        raise LabError(f"dropbearkey made no host key: {error}") from None
    found = re.search(r"^(ssh-ed25519 [A-Za-z0-9+/=]+)", done.stdout, re.M)
    if not found:
        raise LabError("dropbearkey printed no ssh-ed25519 key; dropbear 2020.79 and newer do")
    (part / "host_key.pub").write_text(found.group(1) + "\n", encoding="ascii")


def _make_initrd(part: Path, image: Image) -> None:
    private = key_archive(
        (part / "host_key").read_bytes(),
        (part / "id_ed25519.pub").read_text(encoding="ascii").strip(),
        "vfiocert-lab",
    )
    with open(part / "initrd", "wb") as out, open(image.path, "rb") as shared:
        shutil.copyfileobj(shared, out, 1 << 20)
        # The kernel takes archives one after the other; each starts at a multiple of 4.
        out.write(b"\0" * (-out.tell() % 4) + private)


def _frame_key(kernel: KernelBuild, image: Image, qemu: Qemu, memory_mib: int) -> str:
    argv = command_line(
        qemu,
        Path("frame"),
        kernel=Path("kernel"),
        initrd=Path("initrd"),
        memory_mib=memory_mib,
        port=1,
        resume=None,
    )
    cpu = ""
    if qemu.accel == "kvm":  # a machine saved on one CPU model need not resume on another
        found = re.search(r"^model name.*$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        cpu = found.group(0) if found else ""
    text = "\n".join([f"frame {_RECIPE}", kernel.key, image.key, qemu.version, cpu, *argv])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
