# SPDX-License-Identifier: Apache-2.0
"""Proving the suite: every seeded defect must be caught, and no golden device accused."""
