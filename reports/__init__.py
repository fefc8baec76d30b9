# SPDX-License-Identifier: Apache-2.0
"""Verdict records (`reports.records`) and everything rendered from them."""
