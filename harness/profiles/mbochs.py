# SPDX-License-Identifier: Apache-2.0
"""The kernel's other sample display (samples/vfio-mdev/mbochs.c): frame buffers as dma-bufs, and an EDID.

It emulates enough of QEMU's stdvga for a guest's driver; no interrupts, no DMA, no migration.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="mbochs",
    driver="mbochs",
    description="sample mdev with a display of Bochs, dma-bufs and an EDID",
    does_dma=False,
    op_limit_s=20.0,
    bus="mdev",
    explanations={
        "DEV-015": "MBOCHS_CONFIG_SPACE_SIZE is 0xff: the last of the 256 bytes is missing",
        "DEV-019": (
            "mbochs_mmap() checks vm_pgoff, but does not set VM_DONTEXPAND: the kernel merges a mapping of "
            "the bytes before the frame buffer with one of the frame buffer, without calling mbochs_mmap()"
        ),
        "DEV-032": (
            "mdev_access() subtracts MBOCHS_MMIO_BAR_OFFSET from the position instead of "
            "MBOCHS_MEMORY_BAR_OFFSET: read() and write() of the frame buffer are two pages off from mmap()"
        ),
        "DEV-044": "handle_pci_cfg_write() handles two BARs and ignores every other register",
        "DEV-054": "handle_pci_cfg_write() handles two BARs and ignores every other register",
        "DEV-100": "mbochs_get_device_info() sets no VFIO_DEVICE_FLAGS_RESET, but mbochs_ioctl() can reset",
        "DEV-143": (
            "mbochs_query_gfx_plane() drops the result of mbochs_dmabuf_alloc(): the first query for a new "
            "frame buffer fails with ENOMEM, the second succeeds"
        ),
        "DEV-145": "mbochs_query_gfx_plane() sets x_hot and y_hot to 0",
        "DEV-153": "handle_edid_regs() accepts any edid_size",
        "MIG-164": (
            "an access to the last two pages of the frame buffer makes mdev_access() read a page pointer "
            "from behind pages[] (see DEV-032): it dies with ops_lock held, and later accesses wait for it"
        ),
        "MIG-166": (
            "mbochs_get_gfx_dmabuf() passes the only reference of the dma-buf's file to every fd: the second "
            "close uses a file that is already freed; or mdev_access(), see MIG-164"
        ),
        "MIG-167": "the kernel reports of MIG-166 set the taint",
    },
    source="samples/vfio-mdev/mbochs.c",
)
