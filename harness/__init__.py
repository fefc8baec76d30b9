# SPDX-License-Identifier: Apache-2.0
"""The controller of vfiocert, a conformance suite for Linux VFIO devices (docs/architecture.md)."""

__version__ = "0.1.0"
