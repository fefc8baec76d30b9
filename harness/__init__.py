# SPDX-License-Identifier: Apache-2.0
"""The controller of vfiocert, a conformance suite for Linux VFIO devices (docs/architecture.md)."""

from pathlib import Path

__all__ = ["PROJECT", "__version__"]

__version__ = "0.1.0"

PROJECT = Path(__file__).resolve().parent.parent
"""The clone that runs: there is nothing to install."""
