# SPDX-License-Identifier: Apache-2.0
"""Sets of pages as integers, against the plain way of counting pages one by one."""

from __future__ import annotations

import base64
import random
import zlib

import pytest

from harness.program.pages import (
    PAGE,
    bitmap_bytes,
    bitmap_of,
    expand,
    first,
    fold,
    from_bytes,
    pages_of,
    span,
)


def plain(base: int, pages: int, iova: int, length: int, count: int, stride: int) -> int:
    result = 0
    for k in range(count if stride > 0 else 1):
        start = iova + k * stride
        for page in range((start - base) // PAGE, (start + length - 1 - base) // PAGE + 1):
            if 0 <= page < pages:
                result |= 1 << page
    return result


@pytest.mark.parametrize("seed", range(300))
def test_blocks_touch_the_pages_counted_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    base, pages = rng.randrange(0, 64) * PAGE, rng.choice((1, 7, 64, 300))
    iova = max(0, base + rng.randrange(-40, 320) * PAGE + rng.choice((0, 1, 8, 4095, rng.randrange(PAGE))))
    length = rng.choice((1, 4, 100, 4096, 5000, 70000))
    count = rng.choice((1, 2, 3, 17, 64, 100))
    stride = rng.choice((0, 4, 12, 512, 4096, 4100, 8192, 12288, 65536))
    got = pages_of(base, pages, iova, length, count, stride)
    assert got == plain(base, pages, iova, length, count, stride)


@pytest.mark.parametrize("seed", range(100))
def test_fold_and_expand_are_what_counting_says(seed: int) -> None:
    rng = random.Random(seed)
    pages, factor = rng.randrange(1, 400), rng.choice((1, 2, 4, 16, 64, 512))
    bits = rng.getrandbits(pages) & rng.getrandbits(pages)
    folded = fold(bits, factor)
    for n in range(-(-pages // factor)):
        assert bool(folded >> n & 1) == bool(bits >> (n * factor) & span(0, factor))
    wide = expand(folded, factor, pages)
    assert all((wide >> p & 1) == (folded >> (p // factor) & 1) for p in range(pages))
    assert not wide >> pages


def test_64_gib_in_4_kib_pages_takes_no_object_per_page() -> None:
    pages = (64 << 30) // PAGE
    written = pages_of(0, pages, 0, 4, 1_000_000, 16 * PAGE)
    assert written.bit_count() == 1_000_000
    assert fold(written, 512).bit_count() == -(-16 * (1_000_000 - 1) // 512)
    assert expand(1, 512, pages) == span(0, 512)


def test_bitmap_bytes_are_whole_words() -> None:
    assert [bitmap_bytes(n * PAGE, PAGE) for n in (1, 64, 65, 128, 129)] == [8, 8, 16, 16, 24]


def test_first_is_the_lowest_page() -> None:
    assert first(0b1011000) == 3


def test_a_bitmap_travels_plain_or_compressed() -> None:
    data = bytes(range(256)) * 9
    packed = base64.b64encode(zlib.compress(data)).decode()
    assert bitmap_of({"bitmap": data.hex()}) == bitmap_of({"zbitmap": packed}) == data
    assert from_bytes(b"\x01\x80") == 0x8001
    with pytest.raises(ValueError, match="cut off"):
        bitmap_of({"zbitmap": base64.b64encode(zlib.compress(data)[:-9]).decode()})
