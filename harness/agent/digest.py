# SPDX-License-Identifier: Apache-2.0
"""SHA-256 that loads OpenSSL only when needed, because loading it is slow on an emulated host."""

from __future__ import annotations

__all__ = ["sha256_hex"]


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` in hex."""
    from hashlib import sha256

    return sha256(data).hexdigest()
