# SPDX-License-Identifier: Apache-2.0
"""What the agent has in C, compiled here for machines of this one's type, out of the source in the clone.

A compiler is no requirement: without one the agent does the same in Python, more slowly.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import PROJECT

__all__ = ["SOURCE", "compiled_module", "shared_object"]

SOURCE = PROJECT / "harness" / "agent" / "walk.c"
_LIMIT_S = 60.0
# The host may have another C library, or an older processor than the compiler would choose: neither is used.
_FLAGS = (
    "-x", "c", "-std=gnu11", "-O2", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-shared", "-nostdlib", "-s", "-Wl,-z,defs", "-Wl,-z,noexecstack",
    "-Wl,-z,noseparate-code", "-Wl,--build-id=none",
)  # fmt: skip
_OLDEST = {"x86_64": "-march=x86-64", "aarch64": "-march=armv8-a"}


def shared_object(compiler: str = "gcc", machine: str | None = None) -> tuple[bytes, str]:
    """(the shared object, ""), or (nothing, why there is none).  The same source gives the same bytes."""
    oldest = _OLDEST.get(machine or os.uname().machine)
    if oldest is None:
        return b"", f"none is made for {machine or os.uname().machine}"
    if shutil.which(compiler) is None:
        return b"", f"the controller has no {compiler}"
    with tempfile.TemporaryDirectory(prefix="vfiocert-native-") as folder:
        target = Path(folder) / "walk.so"
        command = [compiler, *_FLAGS, oldest, "-o", str(target), "-"]
        try:
            done = subprocess.run(
                command, input=SOURCE.read_bytes(), cwd=folder, capture_output=True, timeout=_LIMIT_S,
                check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return target.read_bytes(), ""
        except subprocess.TimeoutExpired:
            return b"", f"{compiler} was not done within {_LIMIT_S:g} s"
        except OSError as error:
            return b"", f"{compiler}: {error.strerror}"
    last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
    return b"", f"{compiler} of the controller refuses {SOURCE.name}: {last[:200]}"


def compiled_module(source: str, compiler: str = "gcc") -> str:
    """Return harness/agent/compiled.py with its values filled in; `source` is its text in the clone."""
    image, why = shared_object(compiler)
    values = {
        "MACHINE": os.uname().machine if image else "",
        "WALK": base64.b64encode(image).decode(),
        "WHY": why,
    }
    lines = source.splitlines()
    for number, line in enumerate(lines):
        name = line.partition(" = ")[0]
        if name in values:
            lines[number] = f"{name} = {values.pop(name)!r}"
    assert not values, f"compiled.py has no line for {', '.join(values)}"
    return "\n".join([*lines, ""])
