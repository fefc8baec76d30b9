# SPDX-License-Identifier: Apache-2.0
"""Chapter DEV: regions, interrupts, reset, power."""
