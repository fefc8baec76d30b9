# SPDX-License-Identifier: Apache-2.0
"""True findings that every device shows: they are the kernel's own, and no false alarm on a golden device."""

from __future__ import annotations

from collections.abc import Mapping

from harness.spec.clause import all_clauses

__all__ = ["KNOWN_OF_THE_CORE", "NOT_GOLDEN"]

KNOWN_OF_THE_CORE: Mapping[str, str] = {clause.id: clause.core for clause in all_clauses() if clause.core}
"""Clause -> the cause, as read in Linux 7.2."""

NOT_GOLDEN: Mapping[str, str] = {
    "mtty0": "the kernel's sample driver, which breaks rules of its own",
    "mtty1": "the kernel's sample driver, which breaks rules of its own",
    "mdpy0": "the kernel's sample driver, which breaks rules of its own",
    "iommufd-mock": "the kernel's mock, tried for itself and without defects of ours",
}
"""Devices that are no proof against false alarms; what they break without a defect catches nothing."""
