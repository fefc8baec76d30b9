# SPDX-License-Identifier: Apache-2.0
"""Reads `labs.yaml`: its shape, then what one place says about another, before any connection is made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness import PROJECT
from harness.errors import UsageError
from harness.hosts.inventory import marked_yaml
from harness.hosts.inventory.marked_yaml import Marked, load_marked, spell
from harness.hosts.inventory.models import DeviceSpec, HostSpec, Inventory, JumpSpec, LabSpec

__all__ = ["DEFAULT_FILE", "EMBEDDED", "embedded_devices", "load_inventory", "parse_inventory"]

EMBEDDED = "embedded"
DEFAULT_FILE = PROJECT / "labs.yaml"

_MAX_ERRORS = 20
_SECRET_FIELDS = {"key", "password", "passphrase", "secret", "token"}
_TYPES = {
    "string_type": "is not a string; quote it",
    "int_type": "is not a whole number",
    "bool_type": "is neither true nor false",
    "dict_type": "is not a mapping of keys to values",
    "mapping_type": "is not a mapping of keys to values",
    "tuple_type": "is not a list",
    "model_type": "is not a mapping of keys to values",
    "model_attributes_type": "is not a mapping of keys to values",
}


_EMBEDDED: tuple[dict[str, Any], ...] = (
    {"id": "mtty0", "mdev": {"parent": "mtty", "type": "mtty-1"}, "profile": "mtty"},
    {"id": "mtty1", "mdev": {"parent": "mtty", "type": "mtty-2"}, "profile": "mtty"},
    *(
        {
            "id": name,
            "mdev": {"parent": "vfiocert_ref", "type": f"vfiocert_ref-{kind}"},
            "profile": "vfiocert_ref",
        }
        for name, kind in (
            ("ref", "full"),
            ("ref-minimal", "minimal"),
            ("ref-p2p", "p2p"),
            ("ref-precopy", "precopy"),
            ("ref-simple", "simple"),
        )
    ),
    {"id": "edu-pair", "pci": "0000:01:01.0", "profile": "vfio_pci", "companions": ("0000:01:02.0",)},
    {"id": "edu-ref", "pci": "0000:00:05.0", "profile": "edu_vfio_pci"},
    {"id": "edu0", "pci": "0000:00:04.0", "profile": "vfio_pci"},
    {"id": "nvme-vf0", "pci": "0000:02:00.1", "profile": "vfio_pci", "vf_of": "0000:02:00.0"},
    {
        "id": "nvme-token",
        "pci": "0000:02:00.1",
        "profile": "vfio_pci",
        "vf_of": {"pf": "0000:02:00.0", "pf_driver": "vfio-pci"},
    },
    # The kernel's own variant drivers, each on a controller of its own (fixtures/silicon/*/silicon.yaml).
    {
        "id": "pds-vf0",
        "pci": "0000:08:00.1",
        "profile": "pds_vfio_pci",
        "vf_of": {"pf": "0000:08:00.0", "count": 2, "core": "pds_core"},
        "modelled": "nvme",
    },
    {
        "id": "virtio-vf0",
        "pci": "0000:0b:00.1",
        "profile": "virtio_vfio_pci",
        "vf_of": {"pf": "0000:0b:00.0", "count": 2, "core": "virtio_pci_admin"},
        "modelled": "nvme",
    },
    {
        "id": "qat-vf0",
        "pci": "0000:0e:00.1",
        "profile": "qat_vfio_pci",
        "vf_of": {"pf": "0000:0e:00.0", "count": 2, "core": "intel_qat"},
        "modelled": "nvme",
    },
    {
        "id": "xe-vf0",
        "pci": "0000:11:00.1",
        "profile": "xe_vfio_pci",
        "vf_of": {"pf": "0000:11:00.0", "count": 2, "core": "xe"},
        "modelled": "nvme",
    },
    {"id": "edu-noiommu", "pci": "0000:00:09.0", "profile": "vfio_pci", "noiommu": True},
    {"id": "mdpy0", "mdev": {"parent": "mdpy", "type": "mdpy-vga"}, "profile": "mdpy"},
    {"id": "mbochs0", "mdev": {"parent": "mbochs", "type": "mbochs-small"}, "profile": "mbochs"},
    {"id": "iommufd-mock", "mock": "iommufd", "profile": "iommufd_mock"},
)


def embedded_devices(host: str = EMBEDDED) -> tuple[DeviceSpec, ...]:
    """The devices of the built-in lab, the default one first."""
    return tuple(DeviceSpec.model_validate({**device, "host": host}) for device in _EMBEDDED)


def load_inventory(path: Path | None = None) -> Inventory:
    """The inventory in `path` (default: labs.yaml of this clone; no such default file is an empty inventory).

    Relative `key`, `known_hosts` and `module` paths come out absolute. UsageError names every wrong value
    with its line.
    """
    file = DEFAULT_FILE if path is None else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path is None:
            return Inventory()
        raise UsageError(f"inventory {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"inventory {file} cannot be read ({reason})") from None
    return _with_absolute_paths(parse_inventory(text, file.name), file.resolve().parent)


def parse_inventory(text: str, name: str = "labs.yaml") -> Inventory:
    """The inventory written in `text`; `name` is the file's name in messages."""
    marked = load_marked(text, name)
    data = {} if marked.data is None else marked.data
    try:
        # By way of JSON: in strict mode only JSON input may give a list where the model has a tuple.
        inventory = Inventory.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise _refusal(name, marked, _explain_all(error.errors(), data)) from None
    problems = list(_cross_check(inventory))
    if problems:
        raise _refusal(name, marked, problems)
    return inventory


def _refusal(name: str, marked: Marked, problems: list[tuple[marked_yaml.Path, str]]) -> UsageError:
    lines: list[tuple[int, str]] = []
    for path, text in problems:
        line = marked.line(path)
        if (line, text) not in lines:
            lines.append((line, text))
    lines.sort()
    shown = [f"{name}:{line}: {text}" for line, text in lines[:_MAX_ERRORS]]
    if len(lines) > _MAX_ERRORS:
        shown.append(f"{name}: and {len(lines) - _MAX_ERRORS} more")
    return UsageError(";\n".join(shown))


def _explain_all(details: list[ErrorDetails], data: Any) -> list[tuple[marked_yaml.Path, str]]:
    """One message for each place: a union makes pydantic report one error for each of its branches."""
    texts: dict[marked_yaml.Path, list[str]] = {}
    heads: dict[marked_yaml.Path, str] = {}
    for detail in details:
        path = _real_path(tuple(detail["loc"]), data)
        head, text = _explain(detail, path)
        heads[path] = head
        if text not in texts.setdefault(path, []):
            texts[path].append(text)
    inner = {path[:length] for path in texts for length in range(len(path))}
    found = []
    for path, reasons in texts.items():
        # Something inside is wrong, so this branch (it wanted a plain value) is not the one that was meant.
        if path in inner and all(reason in _TYPES.values() for reason in reasons):
            continue
        found.append((path, f"{heads[path]} {' and '.join(reasons)}"))
    return found


def _explain(detail: ErrorDetails, path: marked_yaml.Path) -> tuple[str, str]:
    where = spell(path) or "the file"
    kind = detail["type"]
    if kind == "extra_forbidden":
        return where, f"is not a key here{_allowed(path)}"
    if kind == "missing":
        return where, "is missing"
    if kind == "value_error":
        text = str(detail["ctx"]["error"])
    elif kind == "literal_error":
        text = f"is not one of {detail['ctx']['expected'].replace(' or ', ', ')}"
    elif kind in _TYPES:
        text = _TYPES[kind]
    else:
        text = f"is wrong: {detail['msg'][:1].lower()}{detail['msg'][1:]}".rstrip(".")
    return f"{where}{_shown(path, detail['input'])}", text


def _real_path(loc: marked_yaml.Path, data: Any) -> marked_yaml.Path:
    """`loc` without what pydantic adds and the file does not have: union branches and `[key]`."""
    path: list[str | int] = []
    at: Any = data
    for position, part in enumerate(loc):
        known, child = _child(at, part)
        if known:
            at = child
        elif position != len(loc) - 1 or part == "[key]" or not isinstance(at, Mapping) or _is_branch(part):
            continue
        path.append(part)
    return tuple(path)


def _child(at: Any, part: str | int) -> tuple[bool, Any]:
    if isinstance(at, Mapping):
        return part in at, at.get(part)
    if isinstance(at, list) and isinstance(part, int) and part < len(at):
        return True, at[part]
    return False, None


def _is_branch(part: str | int) -> bool:
    text = str(part)
    return "[" in text or text[:1].isupper() or text in ("str", "int", "bool")


def _shown(path: marked_yaml.Path, value: Any) -> str:
    if isinstance(value, Mapping | list) or (path and path[-1] in _SECRET_FIELDS):
        return ""
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return f"={text if len(text) <= 80 else text[:77] + '...'}"


def _allowed(path: marked_yaml.Path) -> str:
    """The keys that are allowed beside the last one of `path`."""
    model: type[Inventory | LabSpec | HostSpec | DeviceSpec | JumpSpec]
    shape = [part for part in path if isinstance(part, str)]
    if len(path) == 1:
        model = Inventory
    elif len(path) == 3:
        model = LabSpec
    elif len(path) == 5:
        model = HostSpec if shape[2] == "hosts" else DeviceSpec
    else:
        model = JumpSpec
        if path[-2] != "jump":
            return ""
    return f": {', '.join(model.model_fields)}"


def _cross_check(inventory: Inventory) -> Iterator[tuple[marked_yaml.Path, str]]:
    for lab_id, lab in inventory.labs.items():
        here: marked_yaml.Path = ("labs", lab_id)
        if lab_id == EMBEDDED:
            yield here, f"{spell(here)} is reserved for the built-in lab; choose another id"
        yield from _check_hosts(lab, here)
        yield from _check_devices(lab, here)


def _check_hosts(lab: LabSpec, here: marked_yaml.Path) -> Iterator[tuple[marked_yaml.Path, str]]:
    for host_id, host in lab.hosts.items():
        path = (*here, "hosts", host_id, "jump")
        seen = [host_id]
        at = host
        while isinstance(at.jump, str):
            if at.jump not in lab.hosts:
                if len(seen) == 1:
                    yield path, f"{spell(path)}={at.jump!r} is not a host of this lab: {', '.join(lab.hosts)}"
                break
            if at.jump in seen:
                yield path, f"{spell(path)}={host.jump!r} goes in a circle: {' -> '.join([*seen, at.jump])}"
                break
            seen.append(at.jump)
            at = lab.hosts[at.jump]


def _check_devices(lab: LabSpec, here: marked_yaml.Path) -> Iterator[tuple[marked_yaml.Path, str]]:
    ids: dict[str, marked_yaml.Path] = {}
    places: dict[tuple[str, str], str] = {}
    for index, device in enumerate(lab.devices):
        path = (*here, "devices", index)
        if device.id in ids:
            yield (*path, "id"), f"{spell(path)}.id={device.id!r} is the id of {spell(ids[device.id])} too"
        ids.setdefault(device.id, path)
        if device.host not in lab.hosts:
            hosts = ", ".join(lab.hosts) or "it has none"
            yield (*path, "host"), f"{spell(path)}.host={device.host!r} is not a host of this lab: {hosts}"
        if device.pci is None:
            continue
        place = (device.host, device.pci)
        if place in places:
            yield (*path, "pci"), f"{spell(path)}.pci={device.pci!r} is device {places[place]!r} already"
        places.setdefault(place, device.id)
        function = device.virtual_function
        if function is not None and function.pf == device.pci:
            yield (*path, "vf_of"), f"{spell(path)}.vf_of={function.pf!r} is the device itself, not its PF"


def _with_absolute_paths(inventory: Inventory, folder: Path) -> Inventory:
    def absolute(value: str | None) -> str | None:
        if value is None or value.startswith("env:"):
            return value
        return os.path.normpath(folder / os.path.expanduser(value))

    def hop(spec: JumpSpec) -> JumpSpec:
        return spec.model_copy(update={"key": absolute(spec.key), "known_hosts": absolute(spec.known_hosts)})

    def host(spec: HostSpec) -> HostSpec:
        jump = hop(spec.jump) if isinstance(spec.jump, JumpSpec) else spec.jump
        update = {"key": absolute(spec.key), "known_hosts": absolute(spec.known_hosts), "jump": jump}
        return spec.model_copy(update=update)

    labs = {
        lab_id: lab.model_copy(
            update={
                "hosts": {host_id: host(spec) for host_id, spec in lab.hosts.items()},
                "devices": tuple(d.model_copy(update={"module": absolute(d.module)}) for d in lab.devices),
            }
        )
        for lab_id, lab in inventory.labs.items()
    }
    return Inventory(labs=labs)
