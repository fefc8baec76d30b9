# SPDX-License-Identifier: Apache-2.0
"""True findings that every device shows: they are the kernel's own, and no false alarm on a golden device."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from harness.hosts.inventory import embedded_devices
from harness.profiles import load_profile
from harness.spec.clause import all_clauses

__all__ = ["KNOWN_OF_MAINLINE", "NOT_GOLDEN", "known_of"]

KNOWN_OF_MAINLINE: Mapping[str, str] = {
    clause.id: clause.mainline for clause in all_clauses() if clause.mainline
}
"""Clause -> the cause, as read in Linux 7.2."""

NOT_GOLDEN: Mapping[str, str] = {
    "mtty0": "the kernel's sample driver, which breaks rules of its own",
    "mtty1": "the kernel's sample driver, which breaks rules of its own",
    "mdpy0": "the kernel's sample driver, which breaks rules of its own",
    "mbochs0": "the kernel's sample driver, which breaks rules of its own",
    "iommufd-mock": "the kernel's mock, which breaks rules of its own",
}
"""Devices with true findings, each followed to its cause in the profile; any other is a false alarm."""


@functools.cache
def known_of(device: str) -> Mapping[str, str]:
    """Clause -> cause of what this embedded device breaks by itself, the kernel's core included."""
    explained: Mapping[str, str] = {}
    if device in NOT_GOLDEN:
        profile = next(d.profile for d in embedded_devices() if d.id == device)
        explained = load_profile(profile).explanations
    return {**KNOWN_OF_MAINLINE, **explained}
