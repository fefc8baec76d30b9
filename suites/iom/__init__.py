# SPDX-License-Identifier: Apache-2.0
"""Chapter IOM: iommufd."""
