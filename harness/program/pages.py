# SPDX-License-Identifier: Apache-2.0
"""Sets of pages as plain integers: bit n of a set is page n, of 4 KiB, counted from the set's base.

Sixteen million pages (64 GiB) are an integer of 2 MiB; nothing here makes an object per page.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = [
    "PAGE",
    "bitmap_bytes",
    "bitmap_of",
    "expand",
    "first",
    "fold",
    "from_bytes",
    "pages_of",
    "span",
]

PAGE = 4096
_MAX_BITMAP_BYTES = 64 << 20


def span(start: int, end: int) -> int:
    """The pages start to end - 1."""
    return ((1 << (end - start)) - 1) << start if end > start else 0


def pages_of(base: int, pages: int, iova: int, length: int, count: int = 1, stride: int = 0) -> int:
    """The pages touched by `count` blocks of `length` bytes that start every `stride` bytes from `iova`.

    The result is limited to the window of `pages` pages from `base` (an IOVA, a multiple of 4 KiB).
    """
    if length <= 0 or count <= 0 or pages <= 0:
        return 0
    if stride <= 0:
        count = 1
    if count > 1:  # leave out the blocks that lie outside the window
        first_block = max(0, -(-(base - length + 1 - iova) // stride))
        last_block = min(count - 1, (base + pages * PAGE - 1 - iova) // stride)
        if last_block < first_block:
            return 0
        iova, count = iova + first_block * stride, last_block - first_block + 1
    elif iova >= base + pages * PAGE or iova + length <= base:
        return 0
    origin = (iova - base) // PAGE  # page of the set where bit 0 of `result` lies; may be negative
    within = iova - base - origin * PAGE
    # The pattern of touched pages repeats after `period` blocks, a whole number of pages later.
    period = PAGE // math.gcd(stride, PAGE) if count > 1 else 1
    one = 0
    for k in range(min(period, count)):
        at = within + k * stride
        one |= span(at // PAGE, (at + length - 1) // PAGE + 1)
    result, done = one, min(period, count)
    while done * 2 <= count:  # doubling takes log2(count) steps
        result |= result << (done * stride // PAGE)
        done *= 2
    if done < count:
        # Add `done` blocks that overlap the ones there; shift them by a whole number of periods.
        rest = (count - done + period - 1) // period * period
        extra = result << (rest * stride // PAGE)
        last_page = (within + (count - 1) * stride + length - 1) // PAGE
        result |= extra & span(0, last_page + 1)
    result = result << origin if origin >= 0 else result >> -origin
    return result & span(0, pages) if result.bit_length() > pages else result


def fold(pages: int, factor: int) -> int:
    """The set in larger pages: bit n is set if any of pages n * factor to (n + 1) * factor - 1 is."""
    if factor == 1 or not pages:
        return pages
    length = pages.bit_length()
    if factor >= length:
        return 1
    text = bin(pages)[2:].rjust(-(-length // factor) * factor, "0")  # highest page first
    result = 0
    for n in range(factor):
        result |= int(text[n::factor], 2)  # linear time, as the base is a power of two
    return result


def expand(bits: int, factor: int, pages: int) -> int:
    """The opposite of `fold`: each bit becomes `factor` pages; the result is cut to `pages` pages."""
    if factor == 1 or not bits:
        return bits & span(0, pages) if bits.bit_length() > pages else bits
    bits &= span(0, -(-pages // factor))
    if factor >= pages:
        return span(0, pages) if bits & 1 else 0
    text = bin(bits)[2:].replace("0", "a" * factor).replace("1", "b" * factor)
    result = int(text.translate({97: 48, 98: 49}), 2)
    return result & span(0, pages) if result.bit_length() > pages else result


def first(pages: int) -> int:
    """The lowest page of a set, which must not be empty."""
    return (pages & -pages).bit_length() - 1


def bitmap_bytes(length: int, page_size: int) -> int:
    """Size in bytes of a u64 array with one bit for each page of a range of `length` bytes."""
    return -(-max(1, -(-length // page_size)) // 64) * 8


def from_bytes(data: bytes) -> int:
    """The set in a bitmap of little endian u64."""
    return int.from_bytes(data, "little")


def bitmap_of(record: Mapping[str, Any]) -> bytes:
    """The bitmap in a report's trace record, plain or compressed; ValueError if it is malformed."""
    if "bitmap" in record:
        return bytes.fromhex(str(record["bitmap"]))
    packed = base64.b64decode(str(record["zbitmap"]), validate=True)
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, _MAX_BITMAP_BYTES)
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError("zbitmap is cut off or too long")
    return data
