# SPDX-License-Identifier: Apache-2.0
"""Chapter EMU: devices without an IOMMU of their own."""
