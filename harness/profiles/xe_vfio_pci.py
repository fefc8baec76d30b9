# SPDX-License-Identifier: Apache-2.0
"""Intel graphics virtual functions (drivers/vfio/pci/xe).

The PF driver (xe) saves and restores the state.  The PCI driver is called with dashes: its name is not the
module's.
"""

from __future__ import annotations

from harness.profiles import ErrorHook, Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="xe_vfio_pci",
    driver="xe-vfio-pci",
    description="Intel graphics virtual function",
    does_dma=True,
    error_hooks=(ErrorHook("truncated-stream", "truncate", ("RESUMING", "STOP"), amount=1),),
    needs_pf=True,
    source="drivers/vfio/pci/xe",
)
