# SPDX-License-Identifier: Apache-2.0
"""The chain of capabilities behind `struct vfio_iommu_type1_info` (vfio.h, struct vfio_info_cap_header)."""

from __future__ import annotations

from collections.abc import Mapping

from harness.uapi import vfio

__all__ = ["INFO_BYTES", "capability_chain", "iova_ranges"]

INFO_BYTES = 24
"""Size of the structure; offsets in the chain count from its beginning."""
_HEADER_BYTES = 8
_MAX = 32


def capability_chain(tail: bytes, offset: int) -> dict[int, bytes] | None:
    """Parse the chain that starts at `offset`: capability id -> bytes from its header to the end of `tail`.

    `tail` holds the bytes after the structure.  {} if there is no chain; None if it leaves the buffer, loops,
    or has an id twice.
    """
    found: dict[int, bytes] = {}
    while offset:
        place = offset - INFO_BYTES
        if place < 0 or place % 8 or place + _HEADER_BYTES > len(tail) or len(found) >= _MAX:
            return None
        kind = int.from_bytes(tail[place : place + 2], "little")
        if kind in found:
            return None
        found[kind] = tail[place:]
        offset = int.from_bytes(tail[place + 4 : place + 8], "little")
    return found


def iova_ranges(chain: Mapping[int, bytes]) -> list[tuple[int, int]] | None:
    """The usable IOVA ranges (first, last); all 64 bits without that capability, None if it is cut short."""
    body = chain.get(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
    if body is None:
        return [(0, (1 << 64) - 1)]
    count = int.from_bytes(body[8:12], "little")
    words = body[16 : 16 + 16 * count]
    if len(words) < 16 * count:
        return None
    numbers = [int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
