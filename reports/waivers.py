# SPDX-License-Identifier: Apache-2.0
"""Reads `waivers.yaml`: failures accepted for a while, each with a reason, a link and an expiry date."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import UsageError
from reports.models import ClauseResult, DeviceResult
from reports.text import one_line

__all__ = ["Waiver", "apply_waivers", "load_waivers"]

_MAX_BYTES = 1 << 20


class Waiver(BaseModel):
    """One accepted failure: of `clause`, on `device` (its id, or `*` for all), until `expires`, inclusive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clause: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    device: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Annotated[str, Field(min_length=10, max_length=1000)]
    link: Annotated[str, Field(pattern=r"^https?://[^\s<>\"']{3,500}$")]
    expires: datetime.date

    @field_validator("expires", mode="before")
    @classmethod
    def _a_day(cls, value: Any) -> Any:
        if isinstance(value, datetime.datetime) or not isinstance(value, (str, datetime.date)):
            raise ValueError("not a date, which is written 2027-01-31")
        return value

    def covers(self, clause: str, device: str) -> bool:
        """Whether this waiver applies to `clause` on `device`."""
        return self.clause == clause and self.device in ("*", device)


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a repeated key: YAML would silently drop the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_waivers(path: Path) -> list[Waiver]:
    """The waivers in `path`; none if the file does not exist.  `UsageError` if the file is not valid."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: over {_MAX_BYTES} bytes; a waivers file is a short list")
    try:
        data = yaml.load(raw, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML: {one_line(str(error), 300)}") from None
    if data is None:
        return []
    if not isinstance(data, dict) or set(data) != {"waivers"} or not isinstance(data["waivers"] or [], list):
        raise UsageError(f"{path}: the file must hold one key, 'waivers', with a list")
    return [_one(path, index, entry) for index, entry in enumerate(data["waivers"] or [])]


def _one(path: Path, index: int, entry: object) -> Waiver:
    place = f"{path}: waivers[{index}]"
    allowed = ", ".join(Waiver.model_fields)
    if not isinstance(entry, dict):
        raise UsageError(f"{place}={one_line(repr(entry), 80)} is not a mapping of {allowed}")
    try:
        return Waiver.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise UsageError(f"{place}.{name} is missing; a waiver has {allowed}") from None
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{place}.{name} is unknown; a waiver has {allowed}") from None
        value = one_line(str(first.get("input")), 80)
        raise UsageError(f"{place}.{name}={value!r}: {one_line(first['msg'], 200)}") from None


def apply_waivers(
    device: DeviceResult, waivers: Sequence[Waiver], today: datetime.date
) -> tuple[DeviceResult, list[str]]:
    """Waive the failed clauses that a valid waiver covers; also returns notes on expired waivers."""
    notes: list[str] = []

    def judge(clause: ClauseResult) -> ClauseResult:
        if clause.verdict != "fail":
            return clause
        for waiver in waivers:
            if not waiver.covers(clause.id, device.id):
                continue
            if waiver.expires < today:
                notes.append(
                    f"waiver of {clause.id} on {device.id} expired on {waiver.expires} ({waiver.link})"
                )
                continue
            reason = f"waived until {waiver.expires}: {waiver.reason} ({waiver.link})"
            return clause.model_copy(update={"verdict": "waived", "reason": reason})
        return clause

    return device.model_copy(update={"clauses": [judge(clause) for clause in device.clauses]}), notes
