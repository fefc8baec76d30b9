# SPDX-License-Identifier: Apache-2.0
"""Profile for a driver that has none of its own: only what can be probed is used.

Without state regions and mutations only the re-saved stream shows fidelity, and the certificate says so.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="generic",
    # Empty: the device keeps the driver that it has.
    driver="",
    description="any VFIO driver; start here, then write a profile",
    # Unknown: the careful assumption.
    does_dma=True,
)
