# SPDX-License-Identifier: Apache-2.0
"""The methods of the agent: one function each, with its parameters and their types."""

from __future__ import annotations

import os
import sys
import time

from .executor import Executor
from .failure import Failure
from .journal import Journal, run_root, undo_runs
from .kmsg import KernelLog
from .lease import Leases
from .provision import Provisioner
from .sysfs import BDF, Sysfs, read_text

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["Methods"]

_KINDS = {"str": str, "int": int, "bool": bool, "list": list, "dict": dict}
_FIRST_FREE_FILES = "/run"


class Methods:
    """The state of one agent and its methods."""

    def __init__(self, bundle_hash: str) -> None:
        self.bundle_hash = bundle_hash
        root = run_root()
        # The name must be unique, and pids are reused.
        self.journal = Journal(root, "agent-%d-%d" % (os.getpid(), time.time_ns() // 1000000))
        self.root = root
        self.sysfs = Sysfs()
        self.executor = Executor()
        self.provisioner = Provisioner(self.sysfs, self.journal)
        self.leases = Leases(root)
        self.log = KernelLog()
        # A parameter with a question mark may be left out or null.
        self.table: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
            "host_info": (self._host_info, {}),
            "describe_device": (self.provisioner.describe, {"device": "dict"}),
            "snapshot_host": (self.provisioner.snapshot, {"devices": "list"}),
            "provision": (self.provisioner.provision, {"device": "dict", "driver?": "str"}),
            "rebind": (self.provisioner.rebind, {"device": "dict", "override": "str", "steps": "list"}),
            "set_parameter": (
                self.provisioner.set_parameter,
                {"module": "str", "name": "str", "value": "str"},
            ),
            "forbid_reset": (self.provisioner.forbid_reset, {"device": "dict"}),
            "load_module": (self.provisioner.load_module, {"name": "str"}),
            "sriov": (self.provisioner.sriov, {"device": "dict", "numvfs": "int", "autoprobe?": "bool"}),
            "insmod": (self.provisioner.insmod, {"name": "str", "image_b64": "str"}),
            "undo": (self._undo, {"run?": "str"}),
            "lease": (self._lease, {"keys": "list", "holder": "str"}),
            "release": (self._release, {"keys": "list"}),
            "kmsg_mark": (self.log.mark, {"text": "str"}),
            "kmsg_read": (self.log.read, {"since": "int", "max": "int"}),
            "run": (self.executor.run, {"program": "dict"}),
            "run_many": (self.executor.run_many, {"programs": "list"}),
            "session_end": (self._session_end, {"session": "str"}),
        }

    def call(self, name: Any, params: dict[str, Any]) -> Any:
        """Call method `name`; Failure `usage` names the valid methods or parameters."""
        if not isinstance(name, str) or name not in self.table:
            raise Failure(
                "usage", "%.100r is not a method; valid are %s" % (name, ", ".join(sorted(self.table)))
            )
        function, spec = self.table[name]
        kinds = {key.rstrip("?"): kind for key, kind in spec.items()}
        for key, value in params.items():
            if key not in kinds:
                raise Failure(
                    "usage", "%s takes no %.60r; valid are %s" % (name, key, ", ".join(kinds) or "none")
                )
            kind = _KINDS[kinds[key]]
            if value is None and key + "?" in spec:
                continue
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise Failure("usage", "%s: %s=%.60r is not of type %s" % (name, key, value, kinds[key]))
        for key in spec:
            if not key.endswith("?") and key not in params:
                raise Failure("usage", "%s needs %s" % (name, key))
        return function(**params)

    def _host_info(self) -> dict[str, Any]:
        space = os.statvfs(_FIRST_FREE_FILES)
        taint = read_text("/proc/sys/kernel/tainted", "0")
        return {
            "kernel": os.uname().release, "version": os.uname().version, "machine": os.uname().machine,
            "hostname": os.uname().nodename, "python": "%d.%d.%d" % sys.version_info[:3], "uid": os.getuid(),
            "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
            "taint": int(taint) if taint.isdigit() else 0,
            "has_iommufd": os.path.exists("/dev/iommu"), "has_vfio": os.path.exists("/dev/vfio/vfio"),
            "cmdline": read_text("/proc/cmdline"), "free_disk_bytes": space.f_bavail * space.f_frsize,
            "run": self.journal.run,
        }  # fmt: skip

    def _undo(self, run: str | None = None) -> list[dict[str, Any]]:
        # An unbind would wait forever for open device fds.
        self.executor.end_all()
        return undo_runs(self.root, run, self.journal, self.provisioner.undo)

    def _keys(self, keys: list[Any]) -> list[str]:
        """Return the lease keys; a device stands for its IOMMU group too, which cannot be shared."""
        found = []
        for key in keys:
            device = {"pci": key} if isinstance(key, str) and BDF.match(key) else key
            if not isinstance(device, dict):
                found.append(key)
                continue
            found.append(self.sysfs.key(device))
            path = self.sysfs.path(device)
            group = self.sysfs.group(path) if path and "pci" in device else None
            if group is not None:
                found.append("iommu-group-%s" % group)
        return found

    def _lease(self, keys: list[Any], holder: str) -> dict[str, Any]:
        return self.leases.take(self._keys(keys), holder)

    def _release(self, keys: list[Any]) -> dict[str, Any]:
        return self.leases.release(self._keys(keys))

    def _session_end(self, session: str) -> dict[str, Any]:
        self.executor.end_session(session)
        return {}

    def shut_down(self) -> None:
        """Close everything and undo every change of this agent; problems go to stderr, one line each."""
        for step in (self.executor.end_all, self._undo_own, self.leases.release_all):
            try:
                step()
            except Exception as e:  # the later steps must run in any case
                sys.stderr.write("vfiocert agent: %s: %s\n" % (type(e).__name__, e))

    def _undo_own(self) -> None:
        for entry in self.journal.undo(self.provisioner.undo):
            if entry["status"].startswith("failed"):
                sys.stderr.write("vfiocert agent: undo of %s: %s\n" % (entry.get("subject"), entry["status"]))
