# SPDX-License-Identifier: Apache-2.0
"""True findings of the kernel itself, which are not false alarms on a golden device."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from harness.hosts.inventory import embedded_devices, embedded_variants
from harness.profiles import load_profile
from harness.spec.clause import all_clauses

__all__ = ["KNOWN_OF_MAINLINE", "NOT_GOLDEN", "known_of"]

KNOWN_OF_MAINLINE: Mapping[str, str] = {
    clause.id: clause.mainline for clause in all_clauses() if clause.mainline
}
"""The cause of each clause's finding, as read in Linux 7.2."""

NOT_GOLDEN: Mapping[str, str] = {
    "mtty0": "the kernel's sample driver, which breaks rules of its own",
    "mtty1": "the kernel's sample driver, which breaks rules of its own",
    "mdpy0": "the kernel's sample driver, which breaks rules of its own",
    "mbochs0": "the kernel's sample driver, which breaks rules of its own",
    "pds-vf0": "a driver of the kernel, run untouched, which breaks rules of its own (docs/mainline.md)",
    "virtio-vf0": "a driver of the kernel, run untouched, which breaks rules of its own (docs/mainline.md)",
    "qat-vf0": "a driver of the kernel, run untouched, which breaks rules of its own (docs/mainline.md)",
    "xe-vf0": "a driver of the kernel, run untouched, which breaks rules of its own (docs/mainline.md)",
    "iommufd-mock": "the kernel's mock, which breaks rules of its own",
}
"""Devices with true findings, whose causes are in the profile; a finding on any other is a false alarm."""


@functools.cache
def known_of(device: str) -> Mapping[str, str]:
    """The clauses that this embedded device or the kernel's core breaks by itself, with their causes."""
    explained: Mapping[str, str] = {}
    if device in NOT_GOLDEN:
        profile = next(d.profile for d in embedded_devices() if d.id == device)
        explained = load_profile(profile).explanations
    variant = embedded_variants().get(device)
    return {**KNOWN_OF_MAINLINE, **explained, **(variant.findings if variant else {})}
