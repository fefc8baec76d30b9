# SPDX-License-Identifier: Apache-2.0
"""The reference device of this project (fixtures/reference/mdev): an mdev of five types, all in software.

Its README has the register file.  All of its registers but the test controls (FAIL_*), all RAM behind both
BARs, configuration space and the MSI-X table are migrated state.  RAM is copied in whole pages, so only
samples of it are compared.  Mutations do not write registers that start something (DMA_CMD, IRQ_RAISE,
IRQ_PERIOD).
"""

from __future__ import annotations

from harness.profiles import ErrorHook, Mutation, Profile, RegionWrite, StateRegion

__all__ = ["PROFILE"]

_BAR0, _BAR2, _BAR4, _CONFIG = 0, 2, 4, 7

# fixtures/reference/mdev/registers.h
_SCRATCH, _COUNTER = 0x10, 0x20
_DMA_IOVA, _DMA_LEN, _DMA_COUNT, _DMA_STRIDE, _DMA_SEED, _DMA_DELAY = 0x40, 0x48, 0x4C, 0x50, 0x58, 0x60
_IRQ_PENDING, _IRQ_PERIOD = 0x84, 0x8C
_BALLAST, _BALLAST_SEED, _PRECOPY_INITIAL = 0xA0, 0xA4, 0xAC
_FAIL_ARC, _FAIL_ERRNO, _FAIL_MODE = 0xB0, 0xB4, 0xB8
_FAIL_STAYS, _FAIL_ENTERS_ERROR = 0, 1
_ENOSPC = 28

# include/uapi/linux/vfio.h, enum vfio_device_mig_state
_STATES = {
    "STOP": 1,
    "RUNNING": 2,
    "STOP_COPY": 3,
    "RESUMING": 4,
    "RUNNING_P2P": 5,
    "PRE_COPY": 6,
    "PRE_COPY_P2P": 7,
}
_ARCS = (
    ("RUNNING", "STOP"),
    ("RUNNING", "RUNNING_P2P"),
    ("RUNNING_P2P", "STOP"),
    ("STOP", "RUNNING"),
    ("STOP", "RUNNING_P2P"),
    ("STOP", "STOP_COPY"),
    ("STOP_COPY", "STOP"),
    ("STOP", "RESUMING"),
    ("RESUMING", "STOP"),
    ("RUNNING", "PRE_COPY"),
    ("PRE_COPY", "PRE_COPY_P2P"),
    ("PRE_COPY", "STOP_COPY"),
    ("PRE_COPY_P2P", "STOP_COPY"),
    ("PRE_COPY", "RUNNING"),
)


def _u32(region: int, offset: int, value: int) -> RegionWrite:
    return RegionWrite(region, offset, value.to_bytes(4, "little"))


def _u64(region: int, offset: int, value: int) -> RegionWrite:
    return RegionWrite(region, offset, value.to_bytes(8, "little"))


def _failing(arc: tuple[str, str], mode: int) -> ErrorHook:
    enters_error = mode == _FAIL_ENTERS_ERROR
    current, new = (_STATES[state] for state in arc)
    return ErrorHook(
        f"{'error' if enters_error else 'fail'}-{arc[0]}-{arc[1]}".lower().replace("_", "-"),
        arc,
        enters_error=enters_error,
        writes=(
            _u32(_BAR0, _FAIL_ERRNO, _ENOSPC),
            _u32(_BAR0, _FAIL_MODE, mode),
            _u32(_BAR0, _FAIL_ARC, current << 8 | new),
        ),
    )


PROFILE = Profile(
    module="vfiocert_ref",
    driver="vfiocert_ref",
    bus="mdev",
    description="reference device of this project (mdev of five types, emulated, DMA and interrupts)",
    does_dma=True,
    op_limit_s=20.0,
    stream_limit_bytes=64 << 20,
    engine="vfiocert_ref",
    state_regions=(
        StateRegion(_BAR0, _SCRATCH, 0x14),
        StateRegion(_BAR0, _DMA_IOVA, 0x34),
        StateRegion(_BAR0, _IRQ_PENDING, 12),
        StateRegion(_BAR0, _BALLAST, 16),
        StateRegion(_BAR0, 0x1000, 64, 8),
        StateRegion(_BAR0, 0x3FC0, 64, 8),
        StateRegion(_BAR2, 0, 64, 8),
        StateRegion(_BAR2, 0xFFC0, 64, 8),
        StateRegion(_BAR4, 0, 64, 8),
        StateRegion(_CONFIG, 0, 0x60, 4),
    ),
    mutate=(
        Mutation("scratch", (_u32(_BAR0, _SCRATCH, 0x5A5A1234), _u32(_BAR0, _SCRATCH + 12, 0xFFFFFFFF))),
        Mutation(
            "dma-registers",
            (
                _u64(_BAR0, _DMA_IOVA, 0x0123_4567_89AB_C000),
                _u32(_BAR0, _DMA_LEN, 4096),
                _u32(_BAR0, _DMA_COUNT, 3),
                _u64(_BAR0, _DMA_STRIDE, 0xFEDC_BA98_7654_3000),
                _u32(_BAR0, _DMA_SEED, 77),
                _u32(_BAR0, _DMA_DELAY, 10),
            ),
        ),
        Mutation("ballast", (_u32(_BAR0, _BALLAST, 10_001), _u32(_BAR0, _BALLAST_SEED, 0xC0FFEE))),
        Mutation("precopy-initial", (_u32(_BAR0, _PRECOPY_INITIAL, 100),)),
        Mutation("ram-first", (_u64(_BAR0, 0x1000, 0x1122334455667788), _u64(_BAR2, 0, 0x99AABBCCDDEEFF00))),
        Mutation("ram-last", (_u64(_BAR0, 0x3FF8, 0x0F1E2D3C4B5A6978), _u64(_BAR2, 0xFFF8, 1))),
        Mutation("msix-table", (_u32(_BAR4, 0, 0xFEE00000), _u32(_BAR4, 12, 0), _u32(_BAR4, 56, 0x4021))),
        Mutation("command", (RegionWrite(_CONFIG, 0x04, b"\x06\x04"),)),
        Mutation("bars", (_u32(_CONFIG, 0x10, 0xFEB00000), _u32(_CONFIG, 0x18, 0xFEA00000))),
        Mutation("msi-address", (_u32(_CONFIG, 0x44, 0xFEE01000), RegionWrite(_CONFIG, 0x4C, b"\x31\x40"))),
    ),
    error_hooks=tuple(_failing(arc, mode) for arc in _ARCS for mode in (_FAIL_STAYS, _FAIL_ENTERS_ERROR)),
    source="fixtures/reference/mdev",
)
