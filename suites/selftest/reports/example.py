# SPDX-License-Identifier: Apache-2.0
"""An invented run with one of everything, for the tests of the renderers."""

from __future__ import annotations

from harness.spec.arcs import Mig, State, path
from reports.models import ArcResult, ClauseResult, DeviceResult, Finding, Run

__all__ = ["SPLAT", "example_run"]

SPLAT = [
    "WARNING: CPU: 0 PID: 312 at drivers/vfio/pci/example/main.c:688 example_set_state+0x1f2/0x240 [example]",
    "Modules linked in: example vfio_pci_core vfio iommufd",
    "Call Trace:",
    " <TASK>",
    " vfio_ioctl_device_feature_mig_device_state+0xf6/0x170 [vfio]",
    " vfio_device_fops_unl_ioctl+0x2c6/0x8e0 [vfio]",
    " __x64_sys_ioctl+0x94/0xd0",
    " do_syscall_64+0x5b/0x120",
    " </TASK>",
    "---[ end trace 0000000000000000 ]---",
]


def _arcs(flags: Mig, failed: set[tuple[State, State]]) -> list[ArcResult]:
    arcs = []
    for cur in State:
        for new in State:
            way = path(cur, new, flags)
            absent = (Mig.PRE_COPY & ~flags and "PRE_COPY" in cur.name + new.name) or (
                Mig.P2P & ~flags and "P2P" in cur.name + new.name
            )
            verdict = "not-applicable" if absent else "failed" if (cur, new) in failed else None
            arcs.append(
                ArcResult(
                    cur=cur.name,
                    new=new.name,
                    verdict=verdict or ("reached" if way else "refused"),
                    count=0 if absent else 12 + 7 * cur + new,
                    path=[state.name for state in way or ()],
                )
            )
    return arcs


def _finding(clause: str, device: str, *, title: str, log: bool = False) -> Finding:
    return Finding(
        clause=clause,
        device=device,
        title=title,
        expected="errno EINVAL, state STOP_COPY",
        observed="success, state PRE_COPY",
        path=["RUNNING", "SET STOP_COPY", "read 4096 bytes: 4096", "SET PRE_COPY"],
        source="include/uapi/linux/vfio.h, enum vfio_device_mig_state: these arcs are not permitted",
        program={
            "devices": {"dev0": {"cdev": "/dev/vfio/devices/vfio0"}},
            "threads": [
                {
                    "name": "main",
                    "ops": [
                        ["open_cdev", {"dev": "dev0", "out": "d"}],
                        ["set_state", {"fd": "d", "state": 3, "out": "f"}],
                        ["set_state", {"fd": "d", "state": 6}],
                    ],
                }
            ],
        },
        trace=[
            {"t": "main", "i": 0, "op": "open_cdev", "ret": 5, "errno": 0, "t0": 1, "dt": 2},
            {"t": "main", "i": 1, "op": "set_state", "ret": 0, "errno": 0, "t0": 4, "dt": 2, "state": 3},
            {"t": "main", "i": 2, "op": "set_state", "ret": 0, "errno": 0, "t0": 9, "dt": 2, "state": 6},
        ],
        kernel_log=SPLAT if log else [],
        replay=f"findings/{clause.lower()}-1.json",
        explanation="The session would go on with a stream that was already read to its end.",
    )


def _clause(number: int, verdict: str, level: str = "MUST", reason: str = "", **more: object) -> ClauseResult:
    statements = (
        "A device returns exactly one data fd on an arc that starts a session, and none on any other.",
        "A request for a state whose feature was not declared is refused and changes nothing.",
        "A data fd gives end of file for ever once the stream of STOP_COPY is read.",
    )
    return ClauseResult.model_validate(
        {
            "id": f"MIG-{number:03}",
            "level": level,
            "statement": statements[number % 3],
            "source": "include/uapi/linux/vfio.h, struct vfio_device_feature_mig_state",
            "verdict": verdict,
            "reason": reason,
            "tests": [f"suites/mig/test_{number}.py"],
            **more,
        }
    )


def example_run() -> Run:
    """A run over two devices: one that fails, and one without P2P and PRE_COPY that is fine."""
    warn = "kernel warning in example_set_state while the device's own operations ran"
    broken = [
        _clause(1, "pass", counts={"arcs": 64, "programs": 18231}),
        _clause(2, "pass"),
        _clause(7, "fail", findings=[_finding("MIG-007", "0000:3b:00.1", title="a blocked arc was taken")]),
        _clause(9, "fail", findings=[_finding("MIG-009", "0000:3b:00.1", title=warn, log=True)]),
        _clause(
            12, "advisory", "SHOULD", findings=[_finding("MIG-012", "0000:3b:00.1", title="size is zero")]
        ),
        _clause(13, "inconclusive", reason="the lab host did not answer for 30 s while this clause ran"),
        _clause(
            14, "waived", reason="waived until 2027-01-31: fixed in firmware 4.2 (https://example.org/1)"
        ),
        _clause(15, "not-applicable", reason="PROBE of DMA_LOGGING_START said ENOTTY"),
    ]
    fine = [
        _clause(1, "pass"),
        _clause(2, "pass"),
        _clause(3, "not-applicable", reason="no P2P in MIGRATION"),
    ]
    full = Mig.STOP_COPY | Mig.P2P | Mig.PRE_COPY
    return Run(
        suite="0.1.0",
        started="2026-11-21T05:00:00Z",
        finished="2026-11-21T05:09:12Z",
        seed=20261121,
        budget="10m",
        lab="rack7",
        host="node1",
        command="./vfiocert certify --lab rack7 --budget 10m",
        verdict="non-conforming",
        notes=["waiver of MIG-020 on 0000:3b:00.1 expired on 2026-10-01 (https://example.org/2)"],
        devices=[
            DeviceResult(
                id="0000:3b:00.1",
                profile="example",
                driver="example-vfio-pci",
                module_srcversion="5A0F3C9E1B2D4F6A8C7E9D1",
                kernel="7.2.12",
                capabilities={"migration": ["STOP_COPY", "P2P", "PRE_COPY"], "dma_logging": False},
                verdict="non-conforming",
                clauses=broken,
                arcs=_arcs(
                    full, {(State.STOP_COPY, State.PRE_COPY), (State.RUNNING_P2P, State.PRE_COPY_P2P)}
                ),
                counts={"programs": 18231, "operations": 204117},
                taint_before=4096,
                taint_after=4608,
            ),
            DeviceResult(
                id="mtty-1",
                profile="mtty",
                driver="mtty",
                kernel="7.2.12",
                capabilities={"migration": ["STOP_COPY"]},
                verdict="conforming",
                clauses=fine,
                arcs=_arcs(Mig.STOP_COPY, set()),
                counts={"programs": 900},
            ),
        ],
    )
