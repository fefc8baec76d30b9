# SPDX-License-Identifier: Apache-2.0
"""What `vfiocert bench` measures: throughput as ratios of one run, and what the suite costs."""
