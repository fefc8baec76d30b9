# SPDX-License-Identifier: Apache-2.0
"""Loads the certifying plugin for every chapter."""

from __future__ import annotations
