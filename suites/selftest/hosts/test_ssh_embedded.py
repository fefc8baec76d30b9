# SPDX-License-Identifier: Apache-2.0
"""harness/hosts/ssh.py and harness/hosts/host.py against the embedded lab's own SSH server (dropbear)."""

from __future__ import annotations

import pytest

from fixtures.reach import embedded_host
from harness.errors import LabError
from harness.hosts.host import Host
from harness.hosts.ssh import SshHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture
def spec(embedded_lab):
    return embedded_host(embedded_lab)


def test_exec_and_transport_work_with_the_labs_server(spec):
    payload = bytes(range(256)) * 4096
    with SshHost().connect(spec) as connection:
        assert connection.exec("echo out; echo err >&2; exit 7", 30) == (7, b"out\n", b"err\n")
        transport = connection.transport("cat")
        transport.send(payload)
        assert transport.recv_exact(len(payload), 60) == payload
        transport.close()


def test_unknown_host_key_is_refused(spec, tmp_path):
    with pytest.raises(LabError, match=r"SHA256:\S+ is unknown"):
        SshHost().connect(spec.model_copy(update={"known_hosts": str(tmp_path / "empty")}))


def test_user_who_is_not_root_is_refused(embedded_lab, spec):
    # Dropping root just before the agent starts: what a login as another user gives.
    with SshHost().connect(spec) as connection:
        _, out, _ = connection.exec("command -v su", 30)
        wrapper = (
            f'#!/bin/sh\nexec {out.decode().strip()} nobody -s /bin/sh -c \'exec python3 -c "$0"\' "$2"\n'
        )
        connection.exec(f"cat > /run/nobody-python <<'END'\n{wrapper}END\nchmod 755 /run/nobody-python", 30)
    try:
        with pytest.raises(LabError, match="is not root"):
            Host.connect(spec.model_copy(update={"python": "/run/nobody-python"}))
    finally:
        with SshHost().connect(spec) as connection:
            connection.exec("rm -f /run/nobody-python", 30)


def test_host_without_iommufd_gives_no_verdict(spec):
    with SshHost().connect(spec) as connection:
        connection.exec("mv /dev/iommu /dev/iommu.hidden", 30)
    try:
        with pytest.raises(LabError, match="has no iommufd: no verdict"):
            Host.connect(spec)
    finally:
        with SshHost().connect(spec) as connection:
            connection.exec("mv /dev/iommu.hidden /dev/iommu", 30)


def test_agent_leaves_no_file_and_no_process(spec):
    with SshHost().connect(spec) as connection:
        files = (
            "find / -xdev -newer /run/before -type f ! -path '/run/vfiocert/*' 2>/dev/null | grep -v ^/proc"
        )
        connection.exec("touch /run/before; sleep 1.1", 30)
        with Host.connect(spec) as host:
            pid = host.agent.hello["pid"]
        assert connection.exec(
            f"{files}; for i in 1 2 3 4 5; do [ -d /proc/{pid} ] || exit 0; sleep 1; done; exit 9", 60
        )[:2] == (0, b"")
