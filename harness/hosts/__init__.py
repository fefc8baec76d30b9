# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: which there are, how they are reached, and how a device is taken and put back."""
