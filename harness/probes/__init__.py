# SPDX-License-Identifier: Apache-2.0
"""Probes: find out what a device and its host can do by asking them, never from a version."""
