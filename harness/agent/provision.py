# SPDX-License-Identifier: Apache-2.0
"""Changes to the host that make a device ready for VFIO; the undo of each is written first."""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
import zlib

from .failure import Failure
from .journal import Journal
from .modules import Modules, module_name
from .protected import Protected
from .sysfs import Sysfs, read_text

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["Provisioner"]

_APPEAR_LIMIT_S = 10.0
_MAX_VFS = 65535
_SWITCH, _NUMBER = re.compile(r"[YN]\Z"), re.compile(r"[0-9]{1,20}\Z")
_PARAMETERS = {
    ("vfio", "enable_unsafe_noiommu_mode"): _SWITCH, ("vfio_pci", "enable_sriov"): _SWITCH,
    # fixtures/reference/mdev/nature.c
    **dict.fromkeys([("vfiocert_ref", n) for n in ("reset_aborts", "saves_differ", "checks_late")], _SWITCH),
    **dict.fromkeys(
        [("vfiocert_ref", n) for n in (
            "arc_ms", "stream_bytes", "piece_bytes", "late_ms", "log_page_bytes", "log_max_ranges",
            "log_least_bytes",
        )], _NUMBER,
    ),
}  # fmt: skip
_OVERRIDE = re.compile(r"[A-Za-z0-9_. -]{0,64}\Z")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Provisioner:
    """Makes and undoes changes to the host."""

    def __init__(self, sysfs: Sysfs, journal: Journal) -> None:
        self.sysfs = sysfs
        self.journal = journal
        self.modules = Modules(sysfs)
        self.protected = Protected(sysfs)
        self._undo: dict[str, Callable[[dict[str, Any]], str]] = {
            "pci_driver": self._undo_pci_driver, "modules": self._undo_modules, "mdev": self._undo_mdev,
            "sriov": self._undo_sriov, "insmod": self._undo_insmod, "parameter": self._undo_parameter,
            "reset_method": self._undo_reset_method,
        }  # fmt: skip

    def undo(self, step: dict[str, Any]) -> str:
        """Undo one journaled step; return "undone", or "already" if the host is as it was."""
        function = self._undo.get(step["undo"])
        if function is None:
            raise Failure("agent", "a step of kind %r is not known to this version" % step["undo"])
        return function(step)

    # -- what a caller asks for
    def describe(self, device: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a device, with `in_use` and `protected_because`."""
        result = self.sysfs.describe(device)
        path = result["path"]
        result["in_use"] = self.sysfs.in_use(path) if path else []
        result["protected_because"] = self.protected.because(path) if path and "pci" in device else None
        return result

    def provision(self, device: dict[str, Any], driver: str | None = None) -> dict[str, Any]:
        """Make a device ready for VFIO; return its nodes and names, and the steps that were done."""
        steps: list[str] = []
        if "pci" in device:
            self._bind_pci(device, driver, steps)
        else:
            self._make_mdev(device, driver, steps)
        end = time.monotonic() + _APPEAR_LIMIT_S
        while True:
            found = self.sysfs.describe(device)
            # A kernel without CONFIG_VFIO_DEVICE_CDEV has groups only, so a group's node is enough.
            if found["cdev"] or (found["group"] and time.monotonic() > end - _APPEAR_LIMIT_S + 0.5):
                break
            if time.monotonic() >= end:
                raise Failure(
                    "lab", "%s is bound to %s, but no VFIO node appeared within %d s"
                    % (found["name"], found["driver"], _APPEAR_LIMIT_S), steps=steps,
                )  # fmt: skip
            time.sleep(0.01)
        module = self._module_of(found["path"])
        return {
            "cdev": found["cdev"], "group": found["group"], "vfio_name": found["vfio_name"], "name":
            found["name"],
            "device_name": found["name"], "debugfs": found["debugfs"], "driver": found["driver"],
            "iommu_group": found["iommu_group"], "module": module,
            "module_srcversion": self.modules.srcversion(module) if module else "", "steps": steps,
        }  # fmt: skip

    def _module_of(self, path: str) -> str | None:
        for place in ("driver/module", "driver"):
            target = os.path.join(path, place)
            if os.path.exists(target) and place == "driver/module":
                return os.path.basename(os.path.realpath(target))
        return None

    # -- PCI
    def _choose(self, path: str) -> str:
        current = self.sysfs.driver(path)
        if current is not None and self.sysfs.vfio_name(path):
            return current
        module = self.modules.vfio_driver(read_text(os.path.join(path, "modalias"))) or "vfio_pci"
        return self._driver_of_module(module)

    def _driver_of_module(self, module: str) -> str:
        """Return the PCI driver that a module registers; its name is usually, not always, the module's."""
        self._load(module, [])
        base = self.sysfs.at("sys/bus/pci/drivers")
        for name in sorted(os.listdir(base)) if os.path.isdir(base) else []:
            if os.path.basename(os.path.realpath(os.path.join(base, name, "module"))) == module:
                return name
        return module.replace("_", "-")

    def _bind_pci(self, device: dict[str, Any], driver: str | None, steps: list[str]) -> None:
        path = self.sysfs.path(device)
        bdf = self.sysfs.key(device)
        if path is None:
            raise Failure("lab", "there is no PCI device %s on this host" % bdf)
        because = self.protected.because(path)
        if because is not None:
            raise Failure("lab", "%s is protected: %s" % (bdf, because))
        wanted = driver if driver is not None else self._choose(path)
        if self.sysfs.driver(path) == wanted and self.sysfs.vfio_name(path):
            return
        folder = self.sysfs.at("sys/bus/pci/drivers", wanted)
        if not os.path.isdir(folder):
            self._load(module_name(wanted), steps)
        if not os.path.isdir(folder):
            raise Failure("lab", "there is no PCI driver %s on this host" % wanted)
        old, override = self.sysfs.driver(path), self.sysfs.override(path)
        self.journal.before(
            {"undo": "pci_driver", "subject": bdf, "device": bdf, "driver": old, "override": override}
        )
        _write(os.path.join(path, "driver_override"), wanted + "\n")
        steps.append("driver_override of %s: %s" % (bdf, wanted))
        if old is not None:
            _write(os.path.join(path, "driver/unbind"), bdf)
            steps.append("unbound %s from %s" % (bdf, old))
        self._probe(bdf)
        if self.sysfs.driver(path) != wanted:
            raise Failure(
                "lab", "%s did not take driver %s; the kernel log says why" % (bdf, wanted), steps=steps
            )
        steps.append("bound %s to %s" % (bdf, wanted))

    def _probe(self, bdf: str) -> None:
        try:
            _write(self.sysfs.at("sys/bus/pci/drivers_probe"), bdf)
        except OSError:
            pass  # what counts is which driver is bound afterwards

    def rebind(self, device: dict[str, Any], override: str, steps: list[Any]) -> dict[str, Any]:
        """Try the kernel's driver matching: write `override` ("" clears it), then do each step.

        Steps are "unbind" and "probe"; the answer has what is bound after the write and after each step.
        The device may be left without a driver; undo or `provision` binds it again.
        """
        path = self.sysfs.path(device) if "pci" in device else None
        if path is None or not _OVERRIDE.match(override):
            raise Failure(
                "usage", "rebind: %.100r is not a PCI device here, or override=%.60r" % (device, override)
            )
        if not set(steps) <= {"unbind", "probe"} or len(steps) > 8:
            raise Failure("usage", "rebind: steps are at most 8 of unbind, probe; got %.100r" % steps)
        bdf = self.sysfs.key(device)
        because = self.protected.because(path)
        if because is not None:
            raise Failure("lab", "%s is protected: %s" % (bdf, because))
        self.journal.before(
            {"undo": "pci_driver", "subject": bdf, "device": bdf, "driver": self.sysfs.driver(path),
             "override": self.sysfs.override(path)}
        )  # fmt: skip
        _write(os.path.join(path, "driver_override"), override + "\n")
        seen = [self._bound(path, "override")]
        for step in steps:
            if step == "probe":
                self._probe(bdf)
            elif self.sysfs.driver(path) is not None:
                _write(os.path.join(path, "driver/unbind"), bdf)
            seen.append(self._bound(path, step))
        return {"seen": seen}

    def _bound(self, path: str, step: str) -> dict[str, Any]:
        return {
            "step": step, "driver": self.sysfs.driver(path), "override": self.sysfs.override(path),
            "module": self._module_of(path), "vfio_name": self.sysfs.vfio_name(path),
        }  # fmt: skip

    def set_parameter(self, module: str, name: str, value: str) -> dict[str, Any]:
        """Set a parameter of a loaded module, one known here, journaled; return {"was": its value before}."""
        kind = _PARAMETERS.get((module, name))
        if kind is None or not kind.match(value):
            known = ", ".join(
                "%s.%s=%s" % (*each, "Y or N" if form is _SWITCH else "number")
                for each, form in _PARAMETERS.items()
            )
            raise Failure(
                "usage", "set_parameter: %.60s.%.60s=%.20s is none of %s" % (module, name, value, known)
            )
        path = self.sysfs.at("sys/module", module, "parameters", name)
        was = read_text(path)
        if not kind.match(was):
            raise Failure("lab", "this kernel has no parameter %s of module %s" % (name, module))
        if was != value:
            self.journal.before({"undo": "parameter", "subject": path, "value": was})
            _write(path, value + "\n")
        return {"was": was}

    def _undo_parameter(self, step: dict[str, Any]) -> str:
        if read_text(step["subject"], step["value"]) == step["value"]:
            return "already"  # also if the module is gone
        _write(step["subject"], step["value"] + "\n")
        return "undone"

    def forbid_reset(self, device: dict[str, Any]) -> dict[str, Any]:
        """Remove the reset methods of a PCI function, journaled; return {"was": the methods before}."""
        path = self.sysfs.path(device) if "pci" in device else None
        if path is None:
            raise Failure("usage", "forbid_reset: %.100r is not a PCI device here" % device)
        file = os.path.join(path, "reset_method")
        was = read_text(file)
        if was:
            self.journal.before(
                {"undo": "reset_method", "subject": device["pci"], "path": file, "value": was}
            )
            _write(file, "\n")
        return {"was": was}

    def _undo_reset_method(self, step: dict[str, Any]) -> str:
        # A VF that is gone has no reset methods, and one that was made again has all of them.
        if not os.path.exists(step["path"]) or read_text(step["path"]) == step["value"]:
            return "already"
        _write(step["path"], step["value"] + "\n")
        return "undone"

    def load_module(self, name: str) -> dict[str, Any]:
        """Load a module, journaled; return {"drivers": the PCI drivers it registers}."""
        name = module_name(name)
        self._load(name, [])
        base = self.sysfs.at("sys/bus/pci/drivers")
        return {
            "drivers": [
                driver
                for driver in sorted(os.listdir(base) if os.path.isdir(base) else [])
                if os.path.basename(os.path.realpath(os.path.join(base, driver, "module"))) == name
            ]
        }

    def _undo_pci_driver(self, step: dict[str, Any]) -> str:
        bdf = step["device"]
        path = self.sysfs.path({"pci": bdf})
        if path is None:
            return "already"  # a VF that is gone, or a device that was pulled
        file = os.path.join(path, "driver_override")
        current = self.sysfs.driver(path)
        changed = current != step["driver"]
        if changed and current is not None:
            _write(os.path.join(path, "driver/unbind"), bdf)
        if changed and step["driver"] is not None:
            # An override_only id binds only with driver_override set, even if it was cleared after binding.
            _write(file, step["driver"] + "\n")
            _write(self.sysfs.at("sys/bus/pci/drivers", step["driver"], "bind"), bdf)
        if self.sysfs.override(path) != step["override"]:
            _write(file, (step["override"] or "") + "\n")
            changed = True
        return "undone" if changed else "already"

    # -- modules
    def _load(self, module: str, steps: list[str]) -> None:
        before = self.modules.loaded()
        if module in before or os.path.isdir(self.sysfs.at("sys/module", module)):
            return
        self.journal.before({"undo": "modules", "subject": module, "module": module, "before": before})
        self.modules.load(module)
        steps.append("loaded %s" % module)

    def _undo_modules(self, step: dict[str, Any]) -> str:
        before = set(step["before"])
        mine = [name for name in self.modules.needs(step["module"]) or [step["module"]] if name not in before]
        changed = False
        for name in mine:  # modules.dep lists a module before what it needs
            try:
                changed = self.modules.unload(name) or changed
            except Failure:
                # Something else uses it now: leave it loaded, unless it is the module we were asked for.
                if name == step["module"]:
                    raise
        return "undone" if changed else "already"

    def insmod(self, name: str, image_b64: str) -> dict[str, Any]:
        """Load the given image of a module, replacing a loaded one; {"replaced": bool, "srcversion": ...}."""
        name = module_name(name)
        try:
            image = base64.b64decode(image_b64, validate=True)
        except (ValueError, binascii.Error):
            raise Failure("usage", "insmod: image_b64 is not base64")
        if image[:2] == b"\x1f\x8b":
            image = zlib.decompress(image, 31)
        if image[:4] != b"\x7fELF":
            raise Failure("usage", "insmod: the image of %s is not an ELF file (nor a gzipped one)" % name)
        was_loaded = name in self.modules.loaded()
        step = self.journal.before(
            {"undo": "insmod", "subject": name, "module": name, "was_loaded": was_loaded}
        )
        if was_loaded:
            try:
                self.modules.unload(name)
            except Failure:
                self.journal.forget(step)  # it is in use and stays: nothing to undo
                raise
        self.modules.insert(name, image)
        if name not in self.modules.loaded():
            raise Failure("usage", "insmod: the image is not of module %s" % name)
        return {"replaced": was_loaded, "srcversion": self.modules.srcversion(name)}

    def _undo_insmod(self, step: dict[str, Any]) -> str:
        changed = self.modules.unload(step["module"])
        if step["was_loaded"]:
            self.modules.load(step["module"])
            changed = True
        return "undone" if changed else "already"

    # -- mdev
    def _make_mdev(self, device: dict[str, Any], driver: str | None, steps: list[str]) -> None:
        uuid = self.sysfs.key(device)
        path = self.sysfs.path(device)
        if path is None:
            parent, kind = device.get("mdev_parent"), device.get("mdev_type")
            if parent is None or kind is None:
                raise Failure(
                    "usage",
                    "device: mdev %s does not exist, and mdev_parent or mdev_type is not given" % uuid,
                )
            folder = self.sysfs.mdev_parent(parent)
            if folder is None:
                self._load(module_name(parent), steps)  # the sample drivers are named like their parents
                folder = self.sysfs.mdev_parent(parent)
            if folder is None:
                raise Failure("lab", "there is no mdev parent %s on this host" % parent)
            types = os.path.join(folder, "mdev_supported_types")
            if not os.path.isdir(os.path.join(types, kind)):
                known = ", ".join(sorted(os.listdir(types)))
                raise Failure("lab", "mdev parent %s has no type %s; it has %s" % (parent, kind, known))
            self.journal.before({"undo": "mdev", "subject": uuid, "uuid": uuid})
            _write(os.path.join(types, kind, "create"), uuid)
            steps.append("created mdev %s of %s on %s" % (uuid, kind, parent))
            path = self.sysfs.path(device)
        found = self.sysfs.driver(path) if path else None
        if driver is not None and driver != found:
            raise Failure("lab", "mdev %s has driver %s; an mdev's driver cannot be chosen" % (uuid, found))

    def _undo_mdev(self, step: dict[str, Any]) -> str:
        path = self.sysfs.path({"uuid": step["uuid"]})
        if path is None:
            return "already"
        _write(os.path.join(path, "remove"), "1")
        return "undone"

    # -- SR-IOV
    def sriov(self, device: dict[str, Any], numvfs: int, autoprobe: bool | None = None) -> dict[str, Any]:
        """Set the number of virtual functions; return {"vfs": [BDF..]}.

        `autoprobe` says whether drivers may take new ones by themselves; None leaves that as it is.
        """
        path = self.sysfs.path(device) if "pci" in device else None
        if path is None or not 0 <= numvfs <= _MAX_VFS:
            raise Failure("usage", "sriov: %.100r is not a PCI device here, or numvfs=%d" % (device, numvfs))
        file = os.path.join(path, "sriov_numvfs")
        old = read_text(file)
        if not old.isdigit():
            raise Failure("lab", "%s has no SR-IOV" % device["pci"])
        if int(old) != numvfs:
            self._set_autoprobe(path, autoprobe)
            self.journal.before(
                {"undo": "sriov", "subject": device["pci"], "device": device["pci"], "numvfs": int(old)}
            )
            if int(old):
                _write(file, "0")  # the kernel requires zero in between
            if numvfs:
                _write(file, "%d" % numvfs)
        links = sorted((n for n in os.listdir(path) if n.startswith("virtfn")), key=lambda n: int(n[6:] or 0))
        return {"vfs": [os.path.basename(os.readlink(os.path.join(path, name))) for name in links]}

    def _set_autoprobe(self, path: str, wanted: bool | None) -> None:
        file = os.path.join(path, "sriov_drivers_autoprobe")
        was, value = read_text(file), "1" if wanted else "0"
        if wanted is not None and was != value:
            self.journal.before({"undo": "parameter", "subject": file, "value": was})
            _write(file, value)

    def _undo_sriov(self, step: dict[str, Any]) -> str:
        path = self.sysfs.path({"pci": step["device"]})
        if path is None:
            return "already"
        file = os.path.join(path, "sriov_numvfs")
        if read_text(file) == "%d" % step["numvfs"]:
            return "already"
        _write(file, "0")
        if step["numvfs"]:
            _write(file, "%d" % step["numvfs"])
        return "undone"

    # -- comparison
    def snapshot(self, devices: list[Any]) -> dict[str, Any]:
        """Return everything that provisioning may change, comparable with `==`."""
        found = {}
        for device in devices:
            if not isinstance(device, dict):
                raise Failure("usage", "snapshot_host: %.100r is not a device" % (device,))
            about = self.sysfs.describe(device)
            found[about["name"]] = {
                key: about[key] for key in ("exists", "driver", "driver_override", "sriov_numvfs")
            }
        mdevs = self.sysfs.at("sys/bus/mdev/devices")
        return {
            "devices": found,
            "mdevs": sorted(os.listdir(mdevs)) if os.path.isdir(mdevs) else [],
            "modules": [[name, self.modules.srcversion(name)] for name in self.modules.loaded()],
        }
