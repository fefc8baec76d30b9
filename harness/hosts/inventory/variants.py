# SPDX-License-Identifier: Apache-2.0
"""Variants of the reference device, as hardware is: fixtures/reference/variants.yaml.

A variant is a device of the embedded lab that only its name selects:

    vfiocert certify --device ref-arc-500ms --depth 1
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import PROJECT
from harness.errors import HarnessError
from harness.hosts.inventory.load import EMBEDDED, embedded_devices
from harness.hosts.inventory.models import DeviceSpec
from harness.profiles import Profile

__all__ = ["VARIANTS_FILE", "Variant", "VariantSpec", "embedded_variants", "parse_variants"]

VARIANTS_FILE = PROJECT / "fixtures" / "reference" / "variants.yaml"


class VariantSpec(DeviceSpec):
    """A device whose module has parameters set while it is tested, through the undo journal."""

    parameters: Mapping[str, str] = Field(default_factory=dict)
    op_limit_s: float | None = None
    stream_limit_bytes: int | None = None

    @property
    def full_profile(self) -> Profile:
        """The profile of its base, with the limits of this variant."""
        base = super().full_profile
        return replace(
            base,
            op_limit_s=base.op_limit_s if self.op_limit_s is None else self.op_limit_s,
            stream_limit_bytes=(
                base.stream_limit_bytes if self.stream_limit_bytes is None else self.stream_limit_bytes
            ),
        )


class Variant(BaseModel):
    """An entry of variants.yaml.

    * `base`: the embedded device that it is; `parameters`: of that device's module.
    * `chapters`, `clauses` (patterns; none: all), `depth`, `budget`: what `prove` runs on it, and `limit_s`:
      how long that may take.
    * `scratch_gib`: the disk of the lab that its streams need (`vfiocert lab up --scratch`).
    * `findings`: clause -> why this device breaks it and is right; a SHOULD only.
    * `undecided`: clause -> why a run of this kind leaves it open.
    * `catches`: defects of its module that must be caught with these parameters too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    text: Annotated[str, Field(min_length=20)]
    base: str = "ref"
    parameters: Mapping[str, int | bool] = Field(min_length=1)
    op_limit_s: float | None = None
    stream_limit_bytes: int | None = None
    scratch_gib: int = 0
    chapters: tuple[str, ...] = ("mig", "dirty")
    clauses: tuple[str, ...] = ()
    depth: Annotated[int, Field(ge=1, le=5)] = 1
    budget: str | None = None
    limit_s: Annotated[float, Field(ge=5, le=3600)] = 600.0
    findings: Mapping[str, str] = Field(default_factory=dict)
    undecided: Mapping[str, str] = Field(default_factory=dict)
    catches: tuple[str, ...] = ()

    def device(self) -> VariantSpec:
        """The device as the inventory has it."""
        base = next(d for d in embedded_devices() if d.id == self.base)
        written = {name: _written(value) for name, value in self.parameters.items()}
        return VariantSpec.model_validate(
            {**dict(base), "id": self.name, "parameters": written, "op_limit_s": self.op_limit_s,
             "stream_limit_bytes": self.stream_limit_bytes, "host": EMBEDDED}
        )  # fmt: skip


def _written(value: int | bool) -> str:
    """As a module's parameter is written and read."""
    return ("N", "Y")[value] if isinstance(value, bool) else str(value)


def parse_variants(text: str) -> tuple[Variant, ...]:
    """The variants written in `text`; HarnessError for what is wrong with one."""
    entries = yaml.safe_load(text) or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise HarnessError("variants.yaml: is not a list of variants")
    found: list[Variant] = []
    taken = {d.id for d in embedded_devices()}
    for entry in entries:
        name = entry.get("name", "?")
        try:
            found.append(Variant.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            raise HarnessError(
                f"variants.yaml: {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None
        if name in taken:
            raise HarnessError(f"variants.yaml: {name}: is the name of another device")
        if found[-1].base not in {d.id for d in embedded_devices()}:
            raise HarnessError(f"variants.yaml: {name}: base {found[-1].base!r} is no embedded device")
        taken.add(name)
    return tuple(found)


@functools.cache
def embedded_variants() -> Mapping[str, Variant]:
    """The project's own variants, by name."""
    return {v.name: v for v in parse_variants(VARIANTS_FILE.read_text(encoding="utf-8"))}
