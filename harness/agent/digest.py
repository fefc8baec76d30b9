# SPDX-License-Identifier: Apache-2.0
"""SHA-256 without loading OpenSSL before it is needed: on an emulated host that is felt at the start."""

from __future__ import annotations

__all__ = ["sha256_hex"]


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` in hex."""
    from hashlib import sha256

    return sha256(data).hexdigest()
