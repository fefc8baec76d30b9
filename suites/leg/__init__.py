# SPDX-License-Identifier: Apache-2.0
"""Chapter LEG: the legacy container and its type1 backends, and iommufd in their place."""
