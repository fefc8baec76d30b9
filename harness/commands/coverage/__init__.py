# SPDX-License-Identifier: Apache-2.0
"""Which lines of the kernel the suites run: counters of the lab's gcov flavour, per source file."""
