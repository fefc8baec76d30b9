# SPDX-License-Identifier: Apache-2.0
"""Programs as data: building them with their claims, and the pages that they touch."""
