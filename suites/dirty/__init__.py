# SPDX-License-Identifier: Apache-2.0
"""Chapter DIRTY: what the device wrote."""
