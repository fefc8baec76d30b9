# SPDX-License-Identifier: Apache-2.0
"""The part that runs on the lab host: Python 3.8, standard library and `harness.uapi` only."""
