# SPDX-License-Identifier: Apache-2.0
"""The contract as tables; no I/O."""
