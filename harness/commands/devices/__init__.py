# SPDX-License-Identifier: Apache-2.0
"""`vfiocert devices`: the devices of a lab, and the right driver for each."""
