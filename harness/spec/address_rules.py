# SPDX-License-Identifier: Apache-2.0
"""The rules of an address space; each backend has its own clause ids for the same rules."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMPAT", "COMPAT_V1", "NATIVE", "TYPE1", "TYPE1V2", "AddressRules"]


@dataclass(frozen=True)
class AddressRules:
    """Clause ids of one backend; `splits` is the clause that allows cutting a mapping, None if none does."""

    name: str
    map: str
    overlap: str
    outside: str
    misaligned: str
    overflow: str
    empty: str
    placed: str
    unmap: str
    unmap_all: str
    split: str
    splits: str | None = None
    nothing_is_enoent: bool = False


NATIVE = AddressRules(
    "iommufd IOAS", map="IOM-030", overlap="IOM-031", placed="IOM-032", outside="IOM-033",
    misaligned="IOM-034", overflow="IOM-035", empty="IOM-036", unmap="IOM-040", split="IOM-041",
    unmap_all="IOM-042", nothing_is_enoent=True,
)  # fmt: skip
TYPE1V2 = AddressRules(
    "type1v2", map="LEG-020", overlap="LEG-021", placed="LEG-020", outside="LEG-022", misaligned="LEG-023",
    overflow="LEG-024", empty="LEG-025", unmap="LEG-030", split="LEG-031", unmap_all="LEG-032",
)  # fmt: skip
TYPE1 = AddressRules(**{**TYPE1V2.__dict__, "name": "type1", "splits": "LEG-034"})
COMPAT = AddressRules(
    **{
        **TYPE1V2.__dict__,
        **{"name": "iommufd's compatibility mode", "map": "LEG-080", "unmap": "LEG-081"},
        **{"overlap": "LEG-082", "split": "LEG-083", "unmap_all": "LEG-081"},
    }
)
COMPAT_V1 = AddressRules(**{**COMPAT.__dict__, "splits": "LEG-089"})
