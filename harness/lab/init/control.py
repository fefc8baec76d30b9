#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the control line (second serial port) to its host; standard library only.

After it has resumed the machine, the controller sends "resume EPOCH SEED", and gets "ok EPOCH" when the
clock, the random numbers and the devices are right.  This process is part of the saved machine, so that
it need not be started at resume.
"""

from __future__ import annotations

import fcntl
import glob
import os
import struct
import subprocess
import time
import tty

RNDADDENTROPY = 0x40085203  # include/uapi/linux/random.h
RNDRESEEDCRNG = 0x5207


def resume(epoch: str, seed: str) -> None:
    """Set the clock (seconds since 1970), reseed the random numbers (hex) and find the devices again."""
    time.clock_settime(time.CLOCK_REALTIME, float(epoch))
    # Machines resumed from one saved state must not share their random numbers, nor their boot_id.
    data = bytes.fromhex(seed)
    with open("/dev/urandom", "wb", buffering=0) as pool:
        fcntl.ioctl(pool, RNDADDENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(pool, RNDRESEEDCRNG)
    # A device of the saved machine is in its power-on state again, which the kernel does not know: remove it.
    for device in glob.glob("/sys/bus/pci/devices/*"):
        try:
            with open(device + "/vendor") as vendor:
                found = vendor.read().strip()
            if found == "0x1234":
                write(device + "/remove", "1")
        except OSError:
            continue
    write("/sys/bus/pci/rescan", "1")
    for disk in glob.glob("/dev/vd?"):
        use_scratch(disk)


def use_scratch(disk: str) -> None:
    """Makes room for long streams in /var/tmp: files in memory, which go to this disk where it runs out.

    The kernel of the lab has no file system for disks.
    """
    for command in (
        ["mkswap", disk], ["swapon", disk], ["mkdir", "-p", "/var/tmp"],
        ["mount", "-t", "tmpfs", "-o", f"size={sectors(disk) * 512 * 9 // 10}", "tmpfs", "/var/tmp"],
    ):  # fmt: skip
        subprocess.run(["/bin/busybox", *command], stdout=subprocess.DEVNULL, check=True, timeout=60)


def sectors(disk: str) -> int:
    """The size of a disk, in sectors of 512 bytes."""
    with open(f"/sys/class/block/{os.path.basename(disk)}/size") as size:
        return int(size.read())


def write(path: str, text: str) -> None:
    """Write to a sysfs file."""
    with open(path, "w") as file:
        file.write(text)


def answer(line: bytes) -> str | None:
    """Carry out one request and return the answer; None if `line` is not a request."""
    words = line.decode("ascii", "replace").split()
    if len(words) == 2 and words[0] == "ping":
        return "pong " + words[1]
    if len(words) == 3 and words[0] == "resume":
        try:
            resume(words[1], words[2])
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return "error " + str(error)
        return "ok " + words[1]
    return None


def main() -> None:
    """Answer requests until the machine ends."""
    port = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
    heard = b""
    while True:
        heard = (heard + os.read(port, 256))[-4096:]
        while b"\n" in heard:
            line, _, heard = heard.partition(b"\n")
            said = answer(line)
            if said is not None:
                os.write(port, said.encode() + b"\n")


if __name__ == "__main__":
    main()
