# SPDX-License-Identifier: Apache-2.0
"""What a device and its host say of themselves: asked, never concluded from a version."""
