# SPDX-License-Identifier: Apache-2.0
"""Plain pytest certifies: `pytest suites/mig --lab embedded --device mtty0` (docs/contributing.md)."""

from __future__ import annotations

pytest_plugins = ["fixtures.plugin"]
