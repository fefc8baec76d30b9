# SPDX-License-Identifier: Apache-2.0
"""Programs as data: made with their claims, shown, and the pages they touch."""
