# SPDX-License-Identifier: Apache-2.0
"""Prepare a device for certification, and put the host back exactly as it was.

    with provisioned(host, device, holder=holder_name(run)) as ready:
        host.agent.run({"devices": {"dev0": ready.entry}, ...})

The order is fixed: look (nothing changes), refuse what must not be touched, lease, take a snapshot of the
host, change it (the agent journals the undo of each step before the step), probe.  On the way out, whatever
happened: undo, take a second snapshot, compare, release.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, LabError, UsageError
from harness.hosts.host import Host
from harness.hosts.inventory.models import DeviceSpec, VfSpec
from harness.hosts.lease import leased
from harness.probes.access import probe_access
from harness.probes.device import probe_device
from harness.probes.features import probe_capabilities, probe_engine
from harness.probes.iommu import has_mmap_bar, probe_iommu, probe_mock
from harness.probes.vf_token import probe_token
from harness.profiles import Profile, load_profile

__all__ = [
    "ProvisionedDevice",
    "describe",
    "module_name",
    "provisioned",
    "snapshot_difference",
    "wire_device",
]

_PROVISION_S = 180.0
_NOIOMMU_MODE = "enable_unsafe_noiommu_mode"
_AGENT_LEAVES_S = 20.0
_RECONNECT_S = 60.0
_MAX_MODULE_BYTES = 40 << 20
_MAX_DIFFERENCES = 12
# Any fixed value: the same device of a lab gets the same mdev UUID in each run, so that its leases collide.
_UUID_SPACE = uuid.UUID("6f1d8c5e-7a53-4f0e-9d53-9f0f2f1b7c11")


@dataclass(frozen=True)
class ProvisionedDevice:
    """A device that is bound, openable and probed; valid inside its `with`.

    `cdev`, `group`, `debugfs` and `sysfs` are paths on the host ("" for none), `wire` is the device as the
    agent's methods take it, `steps` is what was done to the host.
    """

    id: str
    profile: Profile
    wire: Mapping[str, Any]
    cdev: str
    group: str
    vfio_name: str
    debugfs: str
    sysfs: str
    driver: str
    capabilities: Mapping[str, Any]
    module: str = ""
    module_srcversion: str = ""
    steps: tuple[Any, ...] = ()
    described: Mapping[str, Any] = field(default_factory=dict)
    companions: tuple[Mapping[str, str], ...] = ()
    """Other devices of its group, as a program's `devices` has them."""

    @property
    def entry(self) -> dict[str, str]:
        """The device as a program's `devices` has it."""
        return _entry({**vars(self), "device_name": self.described.get("name")}, self.sysfs)

    @property
    def region_sizes(self) -> dict[int, int]:
        """Sizes in bytes of the regions, by index."""
        return {int(r["index"]): int(r["size"]) for r in self.capabilities.get("regions") or ()}


def wire_device(host_name: str, device: DeviceSpec, instance: str = "") -> dict[str, Any]:
    """The device as the agent's methods take it; an mdev's UUID follows from host, id and `instance`.

    `instance` tells apart several mdevs made from one entry of the inventory.
    """
    if device.mdev is not None:
        name = f"{host_name}/{device.id}/{instance}"
        return {
            "mdev_parent": device.mdev.parent,
            "mdev_type": device.mdev.type,
            "uuid": str(uuid.uuid5(_UUID_SPACE, name)),
        }
    if device.mock is not None:
        return {"mock": device.mock}
    return {"pci": device.pci}


def describe(host: Host, device: DeviceSpec, wire: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the host about the device and change nothing; LabError if the answer is malformed."""
    if device.mock is not None:  # every open of /dev/iommu makes a new one
        return {"exists": host.info.has_iommufd, "path": "/dev/iommu", "driver": "iommufd mock"}
    answer = host.agent.call("describe_device", device=dict(wire))
    if not isinstance(answer, dict):
        raise LabError(f"{host.name}: device '{device.id}': describe_device gave no object")
    return answer


@contextlib.contextmanager
def provisioned(
    host: Host,
    device: DeviceSpec,
    *,
    holder: str,
    module: Path | None = None,
    instance: str = "",
) -> Iterator[ProvisionedDevice]:
    """Bind `device` to its VFIO driver (or create it), probe it, and undo all of it at the end.

    `module` replaces the module of the same name meanwhile (default: the inventory's `module`).  `holder` is
    what other runs are told while the lease is held.  LabError: the device is absent, in use, protected,
    leased or not bindable, or the host was not restored (then it lists the differences).
    """
    wire = wire_device(host.name, device, instance)
    where = f"{host.name}: device '{device.id}'"
    if device.mock is not None:
        yield _mock(host, device, wire, where)
        return
    file = module or (Path(device.module) if device.module else None)
    image = _read_module(file, where) if file is not None else None
    function = device.virtual_function
    pf = {"pci": function.pf} if function is not None else None
    described = describe(host, device, wire)
    _refuse(where, described, may_be_made=device.mdev is not None or function is not None)
    companions = [{"pci": bdf} for bdf in device.companions]
    for each in companions:
        _refuse(f"{where}: companion {each['pci']}", describe(host, device, each), may_be_made=False)
    touched: list[dict[str, Any]] = [wire, *([] if pf is None else [pf]), *companions]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(host, device))
        stack.enter_context(leased(host.agent, touched, holder))
        stack.enter_context(_restored(host, touched, where))
        if file is not None and image is not None:
            host.agent.call("insmod", deadline_s=_PROVISION_S, name=module_name(file), image_b64=image)
        for name, value in getattr(device, "parameters", {}).items():
            host.agent.call(
                "set_parameter", module=load_profile(device.profile).module, name=name, value=value
            )
        owner: Any = None
        if pf is not None and function is not None and function.pf_driver is not None:
            host.agent.call("load_module", deadline_s=_PROVISION_S, name="vfio_pci")
            host.agent.call("set_parameter", module="vfio_pci", name="enable_sriov", value="Y")
            owner = host.agent.call(
                "provision", deadline_s=_PROVISION_S, device=pf, driver=function.pf_driver
            )
            # vfio-pci resets a device when it is opened and closed, and a reset of the PF resets its VFs too.
            host.agent.call("forbid_reset", device=pf)
        if pf is not None and function is not None and function.core is not None:
            _bind_core(host, pf, function.core, where)
        if pf is not None and function is not None and not described.get("exists"):
            _make_functions(host, pf, wire, function, where)
            # Only now its IOMMU group is known, which the lease must cover too.
            _refuse(where, describe(host, device, wire), may_be_made=False)
            stack.enter_context(leased(host.agent, [wire], holder))
        driver = None if device.mdev is not None else device.wanted_driver
        if device.noiommu:
            host.agent.call("set_parameter", module="vfio", name=_NOIOMMU_MODE, value="Y")
        answer = host.agent.call("provision", deadline_s=_PROVISION_S, device=dict(wire), driver=driver)
        others = [
            host.agent.call("provision", deadline_s=_PROVISION_S, device=dict(each), driver=driver)
            for each in companions
        ]
        if owner is not None:
            host.agent.call("forbid_reset", device=dict(wire))
            yield _of_a_vfio_pf(host, device, wire, answer, where, owner)
            return
        yield (_without_iommu if device.noiommu else _ready)(host, device, wire, answer, where, others)


@contextlib.contextmanager
def _only_one(host: Host, device: DeviceSpec) -> Iterator[None]:
    """Refuse a second device: an agent's undo undoes all it did, so each device needs its own agent."""
    if host.prepares:
        raise HarnessError(
            f"{host.name}: device '{device.id}': this agent holds device '{host.prepares}'; "
            "connect a second Host for it (any agent of the host may open it then)"
        )
    host.prepares = device.id
    try:
        yield
    finally:
        host.prepares = ""


def _bind_core(host: Host, pf: Mapping[str, Any], core: str, where: str) -> None:
    """The PF gets the driver that its VFs' driver works through, unless it has it."""
    now = host.agent.call("describe_device", device=dict(pf))
    if not isinstance(now, Mapping) or not now.get("exists"):
        raise LabError(f"{where}: vf_of='{pf['pci']}' is not a PCI device of this host")
    if now.get("driver") == core:
        return
    if now.get("sriov_numvfs"):
        raise LabError(
            f"{where}: '{pf['pci']}' has VFs and driver {now.get('driver')}, not {core}: they would go, too"
        )
    host.agent.call("load_module", deadline_s=_PROVISION_S, name=core)
    done = host.agent.call(
        "rebind", deadline_s=_PROVISION_S, device=dict(pf), override=core, steps=["unbind", "probe"]
    )
    seen = done.get("seen") if isinstance(done, Mapping) else None
    if not seen or seen[-1].get("driver") != core:
        raise LabError(f"{where}: '{pf['pci']}' did not take driver {core}; the kernel log says why")


def _make_functions(
    host: Host, pf: Mapping[str, Any], wire: Mapping[str, Any], function: VfSpec, where: str
) -> None:
    count = function.count
    now = host.agent.call("describe_device", device=dict(pf))
    if not isinstance(now, Mapping) or not now.get("exists"):
        raise LabError(f"{where}: vf_of='{pf['pci']}' is not a PCI device of this host")
    total, present = now.get("sriov_totalvfs"), now.get("sriov_numvfs")
    if not isinstance(total, int) or not isinstance(present, int):
        raise LabError(f"{where}: vf_of='{pf['pci']}' has no SR-IOV")
    if present:
        # The kernel changes the number only through zero, which would take VFs away from others.
        raise LabError(
            f"{where}: '{pf['pci']}' has {present} VFs and {wire['pci']} is none of them; "
            f"correct `pci`, or run on the host: echo 0 > /sys/bus/pci/devices/{pf['pci']}/sriov_numvfs"
        )
    if count > total:
        raise LabError(f"{where}: vf_of.count={count} is more than the {total} VFs of '{pf['pci']}'")
    # Other drivers must not look at a VF whose PF's driver has a use for it.
    quiet = {} if function.core is None else {"autoprobe": False}
    made = host.agent.call("sriov", deadline_s=_PROVISION_S, device=dict(pf), numvfs=count, **quiet)
    functions = list(made.get("vfs") or ()) if isinstance(made, Mapping) else []
    if wire["pci"] not in functions:
        raise LabError(
            f"{where}: pci='{wire['pci']}' is not among the VFs of '{pf['pci']}': "
            f"{', '.join(map(str, functions)) or 'none'}"
        )


def module_name(file: Path) -> str:
    """The kernel's name of the module in `FILE.ko`, with underscores for dashes."""
    return file.name.split(".")[0].replace("-", "_")


def snapshot_difference(before: Any, after: Any, path: str = "") -> list[str]:
    """The differences of two host snapshots, a line each: `drivers.0000:00:04.0: 'edu' became 'vfio-pci'`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found: list[str] = []
        for key in sorted({*before, *after}, key=str):
            inner = f"{path}.{key}" if path else str(key)
            if key not in after:
                found.append(f"{inner}: {before[key]!r} is gone")
            elif key not in before:
                found.append(f"{inner}: {after[key]!r} is new")
            else:
                found += snapshot_difference(before[key], after[key], inner)
        return found
    if before == after:
        return []
    if isinstance(before, list) and isinstance(after, list):
        gone = [item for item in before if item not in after]
        new = [item for item in after if item not in before]
        if gone or new:
            return [f"{path}: {item!r} is gone" for item in gone] + [
                f"{path}: {item!r} is new" for item in new
            ]
    return [f"{path}: {before!r} became {after!r}"]


def _refuse(where: str, described: Mapping[str, Any], *, may_be_made: bool) -> None:
    if not described.get("exists") and not may_be_made:
        raise LabError(f"{where} is absent: no '{described.get('name')}' on this host; see `lspci -D` there")
    protected = described.get("protected_because")
    if protected:
        raise LabError(
            f"{where} must not be taken: {_text(protected)}; certify a device whose group has "
            "nothing that the host needs"
        )
    used = described.get("in_use")
    if used:
        raise LabError(f"{where} is in use: {_text(used)}; stop that first")


@contextlib.contextmanager
def _restored(host: Host, touched: list[dict[str, Any]], where: str) -> Iterator[None]:
    """Take a snapshot of the host; at the end, undo everything this agent did and compare."""
    # Undo what a killed run left, so that it is not mistaken for ours afterwards.
    others = others_live(host.agent.call("undo", deadline_s=_PROVISION_S, run=None))
    before = host.agent.call("snapshot_host", devices=touched)
    boot_id = host.info.boot_id
    try:
        yield
    except BaseException as error:
        # The first error is reported; a host that was not restored is added to it as a note.
        try:
            _undo(host, touched, where, before, boot_id, others)
        except LabError as second:
            error.add_note(str(second))
        raise
    _undo(host, touched, where, before, boot_id, others)


def _undo(
    host: Host, touched: list[dict[str, Any]], where: str, before: Any, boot_id: str, others: bool
) -> None:
    try:
        done = host.agent.call("undo", deadline_s=_PROVISION_S, run=host.info.run)
    except LabError:
        # The connection is dead: the old agent undoes its changes when its channel closes.  A new agent
        # undoes what the old one could not, and sees the result; a host that rebooted has nothing to undo.
        host.reconnect(_RECONNECT_S)
        if host.info.boot_id != boot_id:
            return
        done = host.agent.call("undo", deadline_s=_PROVISION_S, run=None)
        until = time.monotonic() + _AGENT_LEAVES_S
        while not others and others_live(done) and time.monotonic() < until:
            time.sleep(0.5)
            done = host.agent.call("undo", deadline_s=_PROVISION_S, run=None)
    after = host.agent.call("snapshot_host", devices=touched)
    differences = snapshot_difference(before, after) + failed_steps(done)
    if differences and (others or others_live(host.agent.call("undo", deadline_s=_PROVISION_S, run=None))):
        # Other runs on the host make and remove their own mdevs and modules: compare only what we touched.
        differences = snapshot_difference(_devices(before), _devices(after))
    if differences:
        shown = "; ".join(differences[:_MAX_DIFFERENCES])
        more = (
            f"; and {len(differences) - _MAX_DIFFERENCES} more" if len(differences) > _MAX_DIFFERENCES else ""
        )
        raise LabError(f"{where}: the host is not as it was before the run: {shown}{more}")


def failed_steps(done: Any) -> list[str]:
    """The steps that an answer to `undo` reports as failed, one line each."""
    entries = [entry for entry in done if isinstance(entry, Mapping)] if isinstance(done, list) else []
    return [
        f"undo of {entry.get('undo')} {entry.get('subject')} {entry.get('status')}"
        for entry in entries
        if str(entry.get("status", "")).startswith("failed")
    ]


def others_live(done: Any) -> bool:
    """Whether an answer to `undo` says that another run is active on the host."""
    entries = [entry for entry in done if isinstance(entry, Mapping)] if isinstance(done, list) else []
    return any(str(entry.get("status", "")).startswith("skipped") for entry in entries)


def _devices(snapshot: Any) -> Any:
    return snapshot.get("devices") if isinstance(snapshot, Mapping) else snapshot


def _mock(host: Host, device: DeviceSpec, wire: Mapping[str, Any], where: str) -> ProvisionedDevice:
    """The iommufd mock, which needs no preparation: what a program opens is gone when it is closed."""
    return ProvisionedDevice(
        id=device.id, profile=load_profile(device.profile), wire=wire, cdev="", group="", vfio_name="",
        debugfs="", sysfs="", driver="iommufd mock", capabilities=probe_mock(host.agent, where),
    )  # fmt: skip


def _of_a_vfio_pf(
    host: Host, device: DeviceSpec, wire: Mapping[str, Any], answer: Any, where: str, owner: Any
) -> ProvisionedDevice:
    """A VF and its PF, both on VFIO; not probed, because the VF cannot be opened without the PF's token."""
    if not isinstance(answer, Mapping) or not isinstance(owner, Mapping) or not answer.get("cdev"):
        raise LabError(f"{where}: the VF has no cdev beside its PF")
    now = describe(host, device, wire)
    found, pf = _entry(answer, str(now.get("path") or "")), _entry(owner)
    return ProvisionedDevice(
        id=device.id, profile=load_profile(device.profile), wire=wire, cdev=found["cdev"],
        group=found["group"], vfio_name=found["name"], debugfs=found["debugfs"], sysfs=found["sysfs"],
        driver=str(now.get("driver") or ""), described=now, companions=(pf,),
        capabilities={
            "vf_token_pair": True, "group_pair": bool(found["group"] and pf["group"]),
            "names": {"dev0": found["device_name"], "dev1": pf["device_name"]},
            **probe_token(host.agent, {"dev0": found, "dev1": pf}, where),
        },
    )  # fmt: skip


def _without_iommu(
    host: Host,
    device: DeviceSpec,
    wire: Mapping[str, Any],
    answer: Any,
    where: str,
    _others: Sequence[Any] = (),
) -> ProvisionedDevice:
    """A device in no-IOMMU mode: it has a group but no cdev, so it cannot be probed like others."""
    if not isinstance(answer, Mapping) or not str(answer.get("group") or "").rpartition("/")[2].startswith(
        "noiommu-"
    ):
        raise LabError(
            f"{where} got no group called noiommu-N: an IOMMU stands behind it; leave `noiommu` out"
        )
    now = describe(host, device, wire)
    path = str(now.get("path") or "")
    ids = host.exec(f"head -c 4 {shlex.quote(path)}/config", 20.0)[1].hex()
    return ProvisionedDevice(
        id=device.id, profile=load_profile(device.profile), wire=wire, cdev="",
        group=str(answer["group"]), vfio_name=str(answer.get("vfio_name") or ""), debugfs="", sysfs=path,
        driver=str(now.get("driver") or ""), capabilities={"noiommu": True, "config_ids": ids},
        described=now,
    )  # fmt: skip


def _ready(
    host: Host,
    device: DeviceSpec,
    wire: Mapping[str, Any],
    answer: Any,
    where: str,
    others: Sequence[Any] = (),
) -> ProvisionedDevice:
    if not isinstance(answer, Mapping):
        raise LabError(f"{where}: provision gave no object")
    texts = {key: str(answer.get(key) or "") for key in ("cdev", "group", "vfio_name", "debugfs")}
    if not texts["cdev"]:
        raise LabError(
            f"{where} has no cdev after it was bound to '{device.wanted_driver}': no verdict; "
            "boot a kernel with CONFIG_VFIO_DEVICE_CDEV"
        )
    now = describe(host, device, wire)
    entry = _entry(answer, str(now.get("path") or ""))
    companions = tuple(_entry(other) for other in others)
    capabilities = {
        **probe_capabilities(host.agent, entry, where),
        **probe_iommu(host.agent, entry, where),
    }
    capabilities["mmap_bar"] = has_mmap_bar(capabilities)
    profile = device.full_profile
    capabilities |= probe_engine(host.agent, entry, where, profile.engine, capabilities)
    programs = {f"dev{n}": each for n, each in enumerate((entry, *companions))}
    capabilities["virtual_function"] = bool(now.get("physfn"))
    capabilities |= probe_device(host.agent, entry, where, capabilities)
    capabilities |= probe_access(host.agent, programs, where, capabilities["regions"])
    return ProvisionedDevice(
        id=device.id,
        profile=profile,
        wire=wire,
        sysfs=str(now.get("path") or ""),
        driver=str(now.get("driver") or ""),
        module=str(answer.get("module") or ""),
        module_srcversion=str(answer.get("module_srcversion") or ""),
        capabilities=capabilities,
        steps=tuple(answer.get("steps") or ()),
        described=now,
        companions=companions,
        **texts,
    )


def _entry(found: Mapping[str, Any], sysfs: str = "") -> dict[str, str]:
    """A device as programs have it, from the answer to `provision`."""
    return {
        "cdev": str(found.get("cdev") or ""), "group": str(found.get("group") or ""),
        "name": str(found.get("vfio_name") or ""), "debugfs": str(found.get("debugfs") or ""),
        "device_name": str(found.get("device_name") or ""), "sysfs": sysfs,
    }  # fmt: skip


def _read_module(file: Path, where: str) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise UsageError(f"{where}: module='{file}' cannot be read ({reason})") from None
    if len(data) > _MAX_MODULE_BYTES:
        raise UsageError(
            f"{where}: module='{file}' has {len(data)} bytes, at most {_MAX_MODULE_BYTES} are sent"
        )
    if not data.startswith(b"\x7fELF"):
        raise UsageError(
            f"{where}: module='{file}' is not a kernel module; name a built FILE.ko, not compressed"
        )
    return base64.b64encode(data).decode("ascii")


def _text(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
