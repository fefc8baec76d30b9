# SPDX-License-Identifier: Apache-2.0
"""Chapter SEL: variant driver selection."""
