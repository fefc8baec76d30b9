# SPDX-License-Identifier: Apache-2.0
"""The kernel's other sample display (samples/vfio-mdev/mbochs.c): frame buffers as dma-bufs, and an EDID.

Enough of QEMU's stdvga for a guest's driver; no interrupts, no DMA, no migration.
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
        "DEV-015": "MBOCHS_CONFIG_SPACE_SIZE is 0xff: the last byte of the 256 is missing",
        "DEV-019": (
            "mbochs_mmap() looks at vm_pgoff, but does not set VM_DONTEXPAND: a mapping of the bytes before "
            "the frame buffer's is merged with one of the frame buffer, and mmap() of the driver is not asked"
        ),
        "DEV-032": (
            "mdev_access() takes MBOCHS_MMIO_BAR_OFFSET from the position where MBOCHS_MEMORY_BAR_OFFSET is "
            "due: read() and write() of the frame buffer reach two pages further than mmap()"
        ),
        "DEV-044": "handle_pci_cfg_write() knows two BARs and ignores every other register",
        "DEV-054": "handle_pci_cfg_write() knows two BARs and ignores every other register",
        "DEV-100": "mbochs_get_device_info() sets no VFIO_DEVICE_FLAGS_RESET, but mbochs_ioctl() can reset",
        "DEV-143": (
            "mbochs_query_gfx_plane() drops what mbochs_dmabuf_alloc() gives: the first question for a new "
            "frame buffer is ENOMEM, the second is answered"
        ),
        "DEV-145": "mbochs_query_gfx_plane() sets x_hot and y_hot to 0",
        "DEV-153": "handle_edid_regs() takes any edid_size",
        "MIG-164": (
            "mdev_access() takes what lies behind pages[] for a page where the last two of the frame buffer "
            "are read or written (see DEV-032): it dies with ops_lock held, for which all that follow wait"
        ),
        "MIG-166": (
            "mbochs_get_gfx_dmabuf() gives the one reference of the dma-buf's file away with every fd: the "
            "second close is of a file that is gone; or mdev_access(), see MIG-164"
        ),
        "MIG-167": "the kernel's words of MIG-166 taint",
    },
    source="samples/vfio-mdev/mbochs.c",
)
