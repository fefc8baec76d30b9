# SPDX-License-Identifier: Apache-2.0
"""What the tests of modelled drivers share: a bound VF, programs on it, and the knobs of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fixtures.connect import embedded_host, equip
from harness.hosts.host import Host
from harness.hosts.inventory import embedded_devices
from harness.hosts.provision import ProvisionedDevice, provisioned
from harness.lab.embedded import EmbeddedLab
from harness.program.script import Script

__all__ = ["bound", "knobs", "opened", "run", "said"]


@contextmanager
def bound(lab: EmbeddedLab, module: str) -> Iterator[tuple[Host, ProvisionedDevice]]:
    """The VF of the driver `module`, bound to it; given back afterwards."""
    device = next(d for d in embedded_devices() if d.profile == module)
    with Host.connect(embedded_host(lab), "embedded.embedded") as host:
        equip(host, lab, module)
        with provisioned(host, device, holder="selftest") as ready:
            yield host, ready


def said(host: Host, command: str) -> str:
    """What a command prints on the host."""
    status, out, err = host.exec(command, 20.0)
    assert status == 0, err
    return out.decode().strip()


@contextmanager
def knobs(host: Host, model: str, **values: int) -> Iterator[None]:
    """Knobs of the model, turned and turned back."""
    place = f"/sys/module/{model}/parameters"
    before = {name: said(host, f"cat {place}/{name}") for name in values}
    for name, value in values.items():
        said(host, f"echo {value} >{place}/{name}")
    try:
        yield
    finally:
        for name, text in before.items():
            said(host, f"echo {text} >{place}/{name}")


def opened() -> Script:
    """A program with the device open, just reset."""
    s = Script(fresh=False)
    s.op("open_iommufd", out="i")
    s.op("ioas_alloc", fd="i", out="ioas")
    s.op("open_cdev", dev="dev0", out="d")
    s.op("bind", fd="d", iommufd="i")
    s.op("attach", fd="d", pt="ioas")
    return s


def run(host: Host, ready: ProvisionedDevice, s: Script) -> list[Mapping[str, Any]]:
    """The records of a program, by operation."""
    result = host.agent.run({"devices": {"dev0": ready.entry}, "threads": s.to_json()["threads"]})
    assert result.hung is None
    return sorted(result.trace, key=lambda record: record["i"])
