# SPDX-License-Identifier: Apache-2.0
"""A driver nobody described yet: only what can be probed is used.

Without state regions and mutations, fidelity is judged by the re-saved stream alone, and the certificate says
so.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="generic",
    # Empty: whatever driver the device has is kept.
    driver="",
    description="any VFIO driver; start here, then write a profile",
    # Unknown: the careful assumption.
    does_dma=True,
)
