# SPDX-License-Identifier: Apache-2.0
"""What runs on the lab host: stdlib only, Python 3.8, imports nothing but `harness.uapi` and itself."""
