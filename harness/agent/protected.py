# SPDX-License-Identifier: Apache-2.0
"""Devices that must never be taken from the host: those it runs from, and those we reach it through."""

from __future__ import annotations

import fcntl
import os
import struct

from .sysfs import Sysfs, read_text

__all__ = ["Protected"]

_SIOCGIFADDR = 0x8915


class Protected:
    """Finds why a PCI device must not be touched."""

    def __init__(self, sysfs: Sysfs) -> None:
        self.sysfs = sysfs

    def because(self, path: str) -> str | None:
        """Return one line that says why the device at `path` is protected, None if it is not."""
        real = os.path.realpath(path)
        if read_text(os.path.join(real, "class")).startswith("0x06"):
            return "it is a bridge of the host"
        reasons = self._vital()
        for target, reason in reasons:
            if target == real or target.startswith(real + os.sep):
                return reason
        group = self.sysfs.group(real)
        for member in self.sysfs.group_members(group):
            other = os.path.realpath(self.sysfs.at("sys/bus/pci/devices", member))
            if other == real or read_text(os.path.join(other, "class")).startswith("0x06"):
                continue
            for target, reason in reasons:
                if target == other or target.startswith(other + os.sep):
                    return "it shares IOMMU group %s with %s, of which %s" % (group, member, reason)
        return None

    def _vital(self) -> list[tuple[str, str]]:
        """Return (sysfs folder, why) of everything the host needs."""
        found = []
        for place, number in self._mounted():
            for folder in self._disks(self.sysfs.at("sys/dev/block", number)):
                found.append((folder, "the disk %s is in use for %s" % (os.path.basename(folder), place)))
        for name, why in self._networks():
            for folder in self._lower(self.sysfs.at("sys/class/net", name)):
                found.append((folder, "the network interface %s %s" % (name, why)))
        for name in read_text(self.sysfs.at("sys/class/tty/console/active")).split():
            folder = os.path.realpath(self.sysfs.at("sys/class/tty", name))
            found.append((folder, "%s is the console" % name))
        devices = self.sysfs.at("sys/bus/pci/devices")
        for name in os.listdir(devices) if os.path.isdir(devices) else []:
            folder = os.path.join(devices, name)
            if read_text(os.path.join(folder, "boot_vga")) == "1":
                found.append((os.path.realpath(folder), "it is the console's display"))
        return found

    def _mounted(self) -> list[tuple[str, str]]:
        """Return (mount point or `swap`, major:minor) of every block device in use by a mount or as swap."""
        found = []
        for line in read_text(self.sysfs.at("proc/self/mountinfo")).splitlines():
            fields = line.split()
            if len(fields) > 4 and not fields[2].startswith("0:"):
                found.append((fields[4], fields[2]))
            elif len(fields) > 4 and " - " in line:  # btrfs and others: the device number is anonymous
                source = line.split(" - ", 1)[1].split()[1:2]
                number = self._number_of(source[0]) if source else None
                if number:
                    found.append((fields[4], number))
        for line in read_text(self.sysfs.at("proc/swaps")).splitlines()[1:]:
            number = self._number_of(line.split()[0])
            if number:
                found.append(("swap", number))
        return found

    def _number_of(self, node: str) -> str | None:
        if not node.startswith("/dev/"):
            return None
        name = os.path.basename(os.path.realpath(self.sysfs.at(node)))
        return read_text(self.sysfs.at("sys/class/block", name, "dev")) or None

    def _disks(self, path: str) -> list[str]:
        """Return the folders of a block device and of all it is made of (device mapper, RAID)."""
        if not os.path.isdir(path):
            return []
        real = os.path.realpath(path)
        found = [real]
        slaves = os.path.join(real, "slaves")
        for name in os.listdir(slaves) if os.path.isdir(slaves) else []:
            found += self._disks(os.path.join(slaves, name))
        return found

    def _lower(self, path: str) -> list[str]:
        """Return the folders of an interface and of those below it (bond, bridge, VLAN)."""
        if not os.path.isdir(path):
            return []
        real = os.path.realpath(path)
        found = [real]
        for name in os.listdir(real):
            if name.startswith("lower_"):
                found += self._lower(os.path.join(real, name))
        return found

    def _networks(self) -> list[tuple[str, str]]:
        found = []
        address = self._ssh_address()
        for name in sorted(os.listdir(self.sysfs.at("sys/class/net"))) if self._has_net() else []:
            if address and address in self._addresses(name):
                found.append((name, "carries this SSH session"))
        for line in read_text(self.sysfs.at("proc/net/route")).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
                found.append((fields[0], "has the default route"))
        return found

    def _has_net(self) -> bool:
        return os.path.isdir(self.sysfs.at("sys/class/net"))

    def _ssh_address(self) -> str | None:
        """Return the host's address in our SSH session, from an ancestor where sudo dropped the variable."""
        text = os.environ.get("SSH_CONNECTION", "")
        pid = os.getppid()
        while not text and pid > 1:
            try:
                with open(self.sysfs.at("proc", str(pid), "environ"), "rb") as file:
                    for item in file.read(1 << 20).split(b"\0"):
                        if item.startswith(b"SSH_CONNECTION="):
                            text = item.partition(b"=")[2].decode("ascii", "replace")
            except OSError:
                break
            stat = read_text(self.sysfs.at("proc", str(pid), "stat")).rpartition(")")[2].split()
            pid = int(stat[1]) if len(stat) > 1 else 0
        fields = text.split()
        return fields[2].split("%")[0].replace("::ffff:", "") if len(fields) == 4 else None

    def _addresses(self, name: str) -> list[str]:
        import socket  # slow to import, and seldom needed

        found = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
            except OSError:
                pass
        for line in read_text(self.sysfs.at("proc/net/if_inet6")).splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[5] == name and len(fields[0]) == 32:
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])))
        return found
