# SPDX-License-Identifier: Apache-2.0
"""What `labs.yaml` may say: strict, frozen models; docs/labs.schema.json is made from them.

Secrets are references: `key` is the path of a private key or `env:NAME`, the name of a variable that holds
such a path or the key's text. No field takes a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from harness.engines import engine_names, load_engine
from harness.profiles import Profile, load_profile, profile_names

__all__ = ["DeviceSpec", "HostSpec", "Inventory", "JumpSpec", "LabSpec", "MdevSpec", "VfSpec"]

_BDF = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\Z")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z"
)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_./+-]+\Z")


def _bdf(value: str) -> str:
    if not _BDF.match(value):
        raise ValueError("is not dddd:bb:dd.f")
    return value


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        # All digits and dots is an attempt at IPv4, never a name.
        if not _HOST_NAME.match(value) or re.fullmatch(r"[0-9.]+", value):
            raise ValueError("is not a host name, IPv4 or IPv6 address") from None
    return value


def _word(value: str) -> str:
    if not _WORD.match(value):
        raise ValueError(
            "is not an id: letters, digits, '.', '_', '-', at most 64, the first a letter or digit"
        )
    return value


def _key(value: str) -> str:
    if "PRIVATE KEY" in value or _CONTROL.search(value):
        # The error never shows the value of a field called key (load.py).
        raise ValueError("holds a key itself; give its path, or env:NAME")
    if value.startswith("env:") and not _ENV.match(value):
        raise ValueError("is not env:NAME")
    return _path(value)


def _path(value: str) -> str:
    if not value or _CONTROL.search(value):
        raise ValueError("is not a path")
    return value


def _user(value: str) -> str:
    if not _USER.match(value):
        raise ValueError("is not a user name")
    return value


def _python(value: str) -> str:
    if not _SHELL_SAFE.match(value) or value.startswith("-"):
        raise ValueError("is not the name or path of a program: letters, digits, '_', '.', '/', '+', '-'")
    return value


def _profile(value: str) -> str:
    if value.replace("-", "_") not in profile_names():
        raise ValueError(f"is not a profile: {', '.join(profile_names())}")
    return value.replace("-", "_")


def _engine(value: str) -> str:
    if value not in engine_names():
        raise ValueError(f"is not an engine: {', '.join(engine_names())}")
    return value


def _mdev_parent(value: str) -> str:
    if not _BDF.match(value) and not _WORD.match(value):
        raise ValueError("is neither a name under /sys/devices/virtual nor dddd:bb:dd.f")
    return value


def _pattern(pattern: re.Pattern[str]) -> dict[str, JsonValue]:
    """For editors: JSON Schema's spelling of what the validator checks."""
    return {"pattern": f"^{pattern.pattern.removesuffix(chr(92) + 'Z')}$"}


Id = Annotated[str, AfterValidator(_word), Field(json_schema_extra=_pattern(_WORD))]
Bdf = Annotated[str, AfterValidator(_bdf), Field(json_schema_extra=_pattern(_BDF))]
Port = Annotated[int, Field(ge=1, le=65535)]
Address = Annotated[str, AfterValidator(_address)]
User = Annotated[str, AfterValidator(_user)]
FilePath = Annotated[str, AfterValidator(_path)]
KeyRef = Annotated[str, AfterValidator(_key)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class JumpSpec(_Strict):
    """An SSH server on the way to a host; used for a TCP channel and nothing else."""

    address: Address
    port: Port = 22
    user: User = "root"
    key: KeyRef | None = None
    known_hosts: FilePath | None = None


class HostSpec(JumpSpec):
    """A lab host: how to reach it and how to be root on it.

    Without `key` the SSH agent's keys are used; without `known_hosts`, `~/.ssh/known_hosts`. Host keys are
    always verified. `jump` is another host of the same lab, or is written out. Relative paths start at the
    folder of labs.yaml.
    """

    jump: Id | JumpSpec | None = None
    become: Literal["root", "sudo"] = "root"
    python: Annotated[str, AfterValidator(_python)] = "python3"


class MdevSpec(_Strict):
    """A mediated device to create: `parent` as under /sys/devices/virtual or a PCI address, and its type."""

    parent: Annotated[str, AfterValidator(_mdev_parent)]
    type: Id


class VfSpec(_Strict):
    """A virtual function to create: on the physical function `pf`, at least `count` of them.

    `pf_driver` is a VFIO driver that the PF is bound to first; the run then holds both, and VF tokens apply.
    `core` is the PF's own driver, which a VF's driver works through (pds_core): it is bound first, too, and
    no driver but the wanted one takes a VF.
    """

    pf: Bdf
    count: Annotated[int, Field(ge=1, le=65535)] = 1
    pf_driver: Id | None = None
    core: Id | None = None

    @model_validator(mode="after")
    def _one_driver(self) -> VfSpec:
        if self.pf_driver is not None and self.core is not None:
            raise ValueError("has pf_driver and core: a PF has one driver")
        return self


class DeviceSpec(_Strict):
    """One device to certify: a PCI function, an mdev made for the run, or iommufd's own mock."""

    id: Id
    host: Id
    pci: Bdf | None = None
    mdev: MdevSpec | None = None
    mock: Literal["iommufd"] | None = None
    profile: Annotated[str, AfterValidator(_profile)] = "generic"
    driver: Id | None = None
    module: FilePath | None = None
    options: Mapping[str, str | int | bool] = Field(default_factory=dict)
    vf_of: VfSpec | Bdf | None = None
    modelled: Annotated[str, AfterValidator(_engine)] | None = None
    """It lacks its silicon: a model stands behind its driver, on a function of this kind (an engine)."""
    noiommu: bool = False
    """No IOMMU protects the host from it: bound in no-IOMMU mode, on the embedded lab only."""
    companions: tuple[Bdf, ...] = ()
    """Other devices of its IOMMU group, bound to the same driver while it is tested."""

    @model_validator(mode="after")
    def _one_kind(self) -> DeviceSpec:
        if [self.pci, self.mdev, self.mock].count(None) != 2:
            raise ValueError("needs exactly one of pci, mdev and mock")
        if self.vf_of is not None and self.pci is None:
            raise ValueError("has vf_of without pci: the virtual function's own address")
        if self.noiommu and self.pci is None:
            raise ValueError("has noiommu without pci: an mdev's driver is its IOMMU")
        if self.companions and self.pci is None:
            raise ValueError("has companions without pci: only PCI functions share an IOMMU group")
        return self

    @property
    def virtual_function(self) -> VfSpec | None:
        """`vf_of` written out, or None."""
        return VfSpec(pf=self.vf_of) if isinstance(self.vf_of, str) else self.vf_of

    @property
    def full_profile(self) -> Profile:
        """The profile as it is for this device: with the state that the function behind a model shows."""
        profile = load_profile(self.profile)
        if self.modelled is None:
            return profile
        function = load_engine(self.modelled)
        return replace(profile, state_regions=function.state_regions, mutate=function.mutate)

    @property
    def wanted_driver(self) -> str | None:
        """The VFIO driver to bind: `driver`, else the profile's; None keeps what is bound."""
        return self.driver or load_profile(self.profile).driver or None


class LabSpec(_Strict):
    """Hosts and the devices in them."""

    hosts: Mapping[Id, HostSpec]
    devices: tuple[DeviceSpec, ...] = ()


class Inventory(_Strict):
    """The whole of `labs.yaml`; `load_inventory` makes one, and checks references too."""

    labs: Mapping[Id, LabSpec] = Field(default_factory=dict)
