# SPDX-License-Identifier: Apache-2.0
"""The reference variant driver of this project (fixtures/reference/edu), for QEMU's edu device.

All register contents of edu that reads can show are migrated state.  The device's 4 KiB DMA buffer is not:
only the device can read it, so it does not survive a migration, as the driver's README says.  A transfer that
was requested while the device is stopped waits, and is state.  The DMA registers take any value; the driver
checks them when a transfer is to start.
"""

from __future__ import annotations

from harness.profiles import Mutation, Profile, RegionWrite, StateRegion

__all__ = ["PROFILE"]

_BAR = 0
_LIVENESS, _FACTORIAL, _STATUS, _IRQ_STATUS, _IRQ_RAISE = 0x04, 0x08, 0x20, 0x24, 0x60
_SRC, _DST, _COUNT = 0x80, 0x88, 0x90
_STATUS_IRQ = 0x80


def _u32(offset: int, value: int) -> RegionWrite:
    return RegionWrite(_BAR, offset, value.to_bytes(4, "little"))


def _u64(offset: int, value: int) -> RegionWrite:
    return RegionWrite(_BAR, offset, value.to_bytes(8, "little"))


PROFILE = Profile(
    module="edu_vfio_pci",
    driver="edu_vfio_pci",
    description="QEMU's edu with the variant driver of this project (BAR0 mediated, real DMA and interrupts)",
    does_dma=True,
    op_limit_s=20.0,
    stream_limit_bytes=64 << 20,
    state_regions=(
        StateRegion(_BAR, _LIVENESS, 4),
        StateRegion(_BAR, _FACTORIAL, 4),
        StateRegion(_BAR, _STATUS, 8),
        StateRegion(_BAR, _SRC, 0x20, 8),
    ),
    mutate=(
        Mutation("liveness", (_u32(_LIVENESS, 0x12345678),)),
        Mutation("factorial", (_u32(_FACTORIAL, 7),)),
        # 32-bit overflow: the register does not read back the operand, and several operands give 0.
        Mutation("factorial-overflow", (_u32(_FACTORIAL, 29),)),
        Mutation("interrupt-enable", (_u32(_STATUS, _STATUS_IRQ),)),
        # Without an eventfd no interrupt is signalled; the bits stay set until they are acknowledged.
        Mutation("interrupt-pending", (_u32(_IRQ_RAISE, 0x00A50100),)),
        Mutation("dma-registers", (_u64(_SRC, 0x40010), _u64(_DST, 0x0ABC_DEF0_1234), _u64(_COUNT, 24))),
    ),
    source="fixtures/reference/edu, docs/specs/edu of QEMU",
    pci_ids=((0x1234, 0x11E8),),
    engine="edu",
)
