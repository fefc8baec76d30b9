# SPDX-License-Identifier: Apache-2.0
"""Coverage of the kernel: the lines that the suites run, from the counters of the lab's gcov flavour."""
