# SPDX-License-Identifier: Apache-2.0
"""Numbers and structs of capget() and capset(): include/uapi/linux/capability.h (as of v7.2)."""

from __future__ import annotations

import ctypes

from .layout import s32, u32

_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_LINUX_CAPABILITY_U32S_3 = 2


class __user_cap_header_struct(ctypes.Structure):
    _fields_ = [("version", u32), ("pid", s32)]


class __user_cap_data_struct(ctypes.Structure):
    _fields_ = [("effective", u32), ("permitted", u32), ("inheritable", u32)]
