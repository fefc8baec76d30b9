# SPDX-License-Identifier: Apache-2.0
"""The kernel's sample display (samples/vfio-mdev/mdpy.c): a mediated frame buffer without DMA.

Config space is emulated, and the frame buffer is a region that can be mapped; no interrupts, no migration.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="mdpy",
    driver="mdpy",
    description="sample mdev with a frame buffer and no DMA",
    does_dma=False,
    op_limit_s=20.0,
    bus="mdev",
    explanations={
        "DEV-011": "MDPY_DISPLAY_REGION is 16, but num_regions is 9",
        "DEV-015": "MDPY_CONFIG_SPACE_SIZE is 0xff: the last of the 256 bytes is missing",
        "DEV-044": "handle_pci_cfg_write() handles the first BAR and ignores every other register",
        "DEV-054": "handle_pci_cfg_write() handles the first BAR and ignores every other register",
        "DEV-100": "mdpy_get_device_info() does not set VFIO_DEVICE_FLAGS_RESET, but mdpy_ioctl() can reset",
        "DEV-145": "mdpy_query_gfx_plane() sets x_hot and y_hot to 0",
    },
    source="samples/vfio-mdev/mdpy.c",
)
