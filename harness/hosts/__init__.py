# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: the inventory, connections to them, and taking a device and giving it back."""
