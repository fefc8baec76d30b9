# SPDX-License-Identifier: Apache-2.0
"""What the controller compiled for the agent; it fills this in when it packs the agent.

As it stands here nothing was compiled, and the agent does everything in Python (harness/hosts/native.py).
"""

from __future__ import annotations

__all__ = ["MACHINE", "WALK", "WHY"]

MACHINE = ""
"""The machine type (`uname -m`) that it runs on."""
WALK = ""
"""The shared object of walk.c, base64."""
WHY = "this agent was not packed by a controller"
"""Why there is none."""
