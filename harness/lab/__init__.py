# SPDX-License-Identifier: Apache-2.0
"""The embedded lab: a kernel, an image and a QEMU machine, which together are a lab host like any other."""
