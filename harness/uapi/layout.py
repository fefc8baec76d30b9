# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the uapi definitions: C integer types and the ioctl number."""

from __future__ import annotations

import ctypes

__all__ = ["IOC_TYPE", "nr", "s32", "u8", "u16", "u32", "u64"]

u8 = ctypes.c_uint8
u16 = ctypes.c_uint16
u32 = ctypes.c_uint32
s32 = ctypes.c_int32
u64 = ctypes.c_uint64

IOC_TYPE = ord(";")  # VFIO_TYPE and IOMMUFD_TYPE: both subsystems use the same type


def nr(number: int) -> int:
    """Return `_IO(';', number)`: neither header encodes direction or size in its numbers."""
    return (IOC_TYPE << 8) | number
