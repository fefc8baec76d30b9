# SPDX-License-Identifier: Apache-2.0
"""Numbers and structs of the kernel's user space interface; standard library only, Python 3.8."""
