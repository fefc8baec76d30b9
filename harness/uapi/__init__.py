# SPDX-License-Identifier: Apache-2.0
"""What user space and the kernel agree on: numbers and structs, stdlib only, Python 3.8."""
