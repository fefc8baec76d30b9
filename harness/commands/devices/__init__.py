# SPDX-License-Identifier: Apache-2.0
"""`vfiocert devices`: what a lab has, and which driver is the right one for a device."""
