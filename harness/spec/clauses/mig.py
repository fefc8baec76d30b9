# SPDX-License-Identifier: Apache-2.0
"""Chapter MIG: migration protocol v2, every rule as a clause in our own words.

Sources are paragraphs of `include/uapi/linux/vfio.h` unless another file is named.
"""

from __future__ import annotations

from harness.spec.arcs import S, State
from harness.spec.clause import Clause, Level

__all__ = ["ARC_CLAUSES", "CLAUSES"]

_FEATURE = "vfio.h, VFIO_DEVICE_FEATURE"
_MIGRATION = "vfio.h, struct vfio_device_feature_migration"
_STATE = "vfio.h, struct vfio_device_feature_mig_state"
_FSM = "vfio.h, enum vfio_device_mig_state"
_PRECOPY = "vfio.h, VFIO_MIG_GET_PRECOPY_INFO"
_SIZE = "vfio.h, struct vfio_device_feature_mig_data_size"
_DEBUGFS = "Documentation/ABI/testing/debugfs-vfio"
_MAN = "read(2), write(2), poll(2): what a file descriptor promises"

ARC_CLAUSES: dict[tuple[State, State], str] = {
    (S.RUNNING_P2P, S.STOP): "MIG-030",
    (S.STOP_COPY, S.STOP): "MIG-031",
    (S.RESUMING, S.STOP): "MIG-032",
    (S.PRE_COPY, S.RUNNING): "MIG-033",
    (S.RUNNING_P2P, S.RUNNING): "MIG-034",
    (S.PRE_COPY_P2P, S.RUNNING_P2P): "MIG-035",
    (S.RUNNING, S.RUNNING_P2P): "MIG-036",
    (S.STOP, S.RUNNING_P2P): "MIG-037",
    (S.RUNNING, S.PRE_COPY): "MIG-038",
    (S.RUNNING_P2P, S.PRE_COPY_P2P): "MIG-039",
    (S.STOP, S.STOP_COPY): "MIG-040",
    (S.PRE_COPY, S.PRE_COPY_P2P): "MIG-041",
    (S.PRE_COPY_P2P, S.PRE_COPY): "MIG-042",
    (S.PRE_COPY_P2P, S.STOP_COPY): "MIG-043",
    (S.STOP, S.RESUMING): "MIG-044",
}
"""Direct arc -> its clause."""


def _arc(id: str, cur: State, new: State) -> Clause:
    needs = ["migration"]
    if {S.RUNNING_P2P, S.PRE_COPY_P2P} & {cur, new}:
        needs.append("p2p")
    if {S.PRE_COPY, S.PRE_COPY_P2P} & {cur, new}:
        needs.append("pre_copy")
    return Clause(
        id,
        "MUST",
        f"SET({new.name}) in {cur.name} on a healthy device succeeds and leaves it in {new.name}",
        f"{_FSM}, arc {cur.name} -> {new.name}",
        tuple(needs),
        "v6.2" if "pre_copy" in needs else "v5.18",
    )


def _c(
    id: str, level: Level, statement: str, source: str, *needs: str, since: str = "v5.18", untested: str = ""
) -> Clause:
    return Clause(id, level, statement, source, ("migration", *needs), since, untested)


CLAUSES: tuple[Clause, ...] = (
    # -- discovery
    # Clauses that need "migration" do not apply to a device whose GET fails; this clause covers that.
    Clause(
        "MIG-001",
        "MUST",
        "GET of MIGRATION succeeds on a device whose PROBE says it can",
        _FEATURE,
        ("migration_probed",),
        "v5.18",
    ),
    _c("MIG-002", "MUST", "the migration flags contain VFIO_MIGRATION_STOP_COPY", _MIGRATION),
    _c("MIG-003", "MUST", "the migration flags are one of the four defined combinations", _MIGRATION),
    _c("MIG-004", "MUST", "PROBE of MIGRATION together with GET succeeds", _FEATURE),
    _c("MIG-005", "MUST", "PROBE of MIGRATION together with SET, which it lacks, is refused", _FEATURE),
    _c("MIG-006", "MUST", "PROBE of MIG_DEVICE_STATE with GET, SET or both succeeds", _FEATURE),
    _c("MIG-007", "MUST", "GET and SET in one request without PROBE is refused", _FEATURE),
    _c("MIG-008", "MUST", "a request with none of GET, SET, PROBE is refused", _FEATURE),
    _c(
        "MIG-009",
        "MUST",
        "an argsz too small for the feature's data is refused",
        "vfio.h, argsz of struct vfio_device_feature",
    ),
    _c("MIG-010", "MUST", "a refused feature request changes neither the state nor the sessions", _FEATURE),
    _c("MIG-011", "MUST", "PROBE of a feature index that does not exist is refused", _FEATURE),
    _c("MIG-012", "SHOULD", "flag bits that vfio_device_feature does not define are refused", _FEATURE),
    _c(
        "MIG-013",
        "MUST",
        "no region of the removed v1 migration protocol is exposed",
        "vfio.h, VFIO_REGION_TYPE_MIGRATION_DEPRECATED",
    ),
    _c("MIG-014", "MUST", "PROBE changes nothing", _FEATURE),
    _c("MIG-015", "MUST", "the migration flags are the same in every state", _MIGRATION),
    _c(
        "MIG-016",
        "SHOULD",
        "debugfs migration/state names the state that GET reports",
        _DEBUGFS,
        "debugfs_state",
        since="v6.8",
    ),
    _c(
        "MIG-017",
        "MUST",
        "an argsz larger than the data is accepted",
        "vfio.h, argsz of struct vfio_device_feature",
    ),
    # -- GET and SET
    _c(
        "MIG-020",
        "SHOULD",
        "a device just opened is in RUNNING, whatever the previous user left",
        f"{_FSM}, RUNNING: the device is running normally",
    ),
    _c("MIG-021", "MUST", "GET of the state writes -1 to data_fd", _STATE),
    _c("MIG-022", "MUST", "GET after a successful SET reports the state that was set", _STATE),
    _c("MIG-023", "MUST", "SET has fully executed the transition when it returns", _STATE),
    _c("MIG-024", "MUST", "SET of the current state succeeds, changes nothing and returns no data fd", _FSM),
    *(_arc(id, cur, new) for (cur, new), id in ARC_CLAUSES.items()),
    _c(
        "MIG-045",
        "MUST",
        "a combination of arcs along the shortest path succeeds on a healthy device",
        f"{_FSM}, combinations of arcs",
    ),
    _c(
        "MIG-046",
        "MUST",
        "STOP_COPY -> PRE_COPY and STOP_COPY -> PRE_COPY_P2P are refused",
        f"{_FSM}, STOP_COPY -> PRE_COPY",
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-047", "MUST", "ERROR as the target is refused in every state", f"{_FSM}, any -> ERROR"),
    _c("MIG-048", "MUST", "a target outside enum vfio_device_mig_state is refused", _FSM),
    _c(
        "MIG-049",
        "MUST",
        "a state whose feature is not declared is refused as a target",
        f"{_FSM}, optional states",
        "lacks_optional_state",
    ),
    _c("MIG-050", "MUST", "a request that no path can serve leaves the state as it was", _STATE),
    _c(
        "MIG-051",
        "MUST",
        "a SET that fails on the way leaves the original state, one on the path, or ERROR",
        _STATE,
    ),
    _c("MIG-052", "MUST", "GET of the state succeeds in every state", _STATE),
    _c(
        "MIG-053",
        "MUST",
        "no state change that nobody asked for: GET stays the same on an idle device",
        _STATE,
    ),
    _c(
        "MIG-054",
        "MUST",
        "a read of the data fd in the saving group fails with nothing but ENOMSG",
        f"{_PRECOPY}, end of stream",
    ),
    # -- data fds
    _c("MIG-055", "MUST", "an arc that starts a session returns one new data fd", _STATE),
    _c("MIG-056", "MUST", "an arc that starts no session returns no data fd", _STATE),
    _c(
        "MIG-057",
        "MUST",
        "moving within the saving group returns no new data fd and keeps the old one alive",
        f"{_FSM}, saving group",
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-058",
        "SHOULD",
        "the data fd is close-on-exec",
        "drivers/vfio/vfio_main.c, vfio_ioct_mig_return_fd; a stream must not leak into an exec'ed program",
    ),
    _c("MIG-059", "MUST", "a SET that fails returns no data fd", _STATE),
    _c("MIG-060", "MUST", "STOP_COPY -> STOP ends the session: the data fd delivers no data any more", _FSM),
    _c(
        "MIG-061",
        "MUST",
        "PRE_COPY -> RUNNING ends the session: the data fd delivers no data any more",
        _FSM,
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-062",
        "MUST",
        "PRE_COPY_P2P -> RUNNING_P2P ends the session: the data fd delivers no data",
        _FSM,
        "pre_copy",
        "p2p",
        since="v6.2",
    ),
    _c("MIG-063", "MUST", "RESUMING -> STOP ends the session: the data fd takes no data any more", _FSM),
    _c("MIG-064", "MUST", "a reset ends a saving session", f"{_FSM}, VFIO_DEVICE_RESET", "reset"),
    _c("MIG-065", "MUST", "a reset ends a resuming session", f"{_FSM}, VFIO_DEVICE_RESET", "reset"),
    _c("MIG-066", "MUST", "the data fd of an ended session stays dead while a new session runs", _FSM),
    _c(
        "MIG-067",
        "SHOULD",
        "a read of a dead data fd is an error, not an end of stream",
        f"{_FSM}, end of stream means the entire state has been transferred",
    ),
    _c("MIG-068", "MUST", "a dup of the data fd is the same session: same position, dead when it ends", _FSM),
    _c("MIG-069", "MUST", "closing the data fd does not change the state", _STATE),
    _c("MIG-070", "MUST", "a data fd passed by SCM_RIGHTS is the same session", _FSM),
    _c(
        "MIG-071",
        "SHOULD",
        "closing the device ends the session: the data fd delivers no data any more",
        f"{_FSM}, data transfer session",
    ),
    _c("MIG-072", "MUST", "a write to a saving fd is refused", f"{_FSM}, read() and write() roles"),
    _c("MIG-073", "MUST", "a read of a resuming fd is refused", f"{_FSM}, read() and write() roles"),
    _c("MIG-074", "SHOULD", "the data fd is a stream: lseek, pread and pwrite are refused", _STATE),
    _c(
        "MIG-075",
        "MUST",
        "in STOP_COPY the stream has an end, and read returns 0 there for ever",
        f"{_PRECOPY}, permanent end of stream",
    ),
    _c("MIG-076", "MUST", "a read in STOP_COPY never fails with ENOMSG", f"{_PRECOPY}, permanent end"),
    _c("MIG-077", "MUST", "at the end of the stream in STOP_COPY poll says readable", f"{_PRECOPY}"),
    _c(
        "MIG-078",
        "SHOULD",
        "a read at the temporary end of stream in PRE_COPY fails with ENOMSG",
        f"{_PRECOPY}, temporary end of stream",
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-079", "MUST", "a read returns no more than was asked for and fails with no unknown length", _MAN),
    # -- PRE_COPY
    _c("MIG-080", "MUST", "VFIO_MIG_GET_PRECOPY_INFO works in PRE_COPY", _PRECOPY, "pre_copy", since="v6.2"),
    _c(
        "MIG-081",
        "MUST",
        "VFIO_MIG_GET_PRECOPY_INFO works in PRE_COPY_P2P",
        _PRECOPY,
        "pre_copy",
        "p2p",
        since="v6.2",
    ),
    _c(
        "MIG-082",
        "MUST",
        "VFIO_MIG_GET_PRECOPY_INFO is refused in every other state",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-083",
        "SHOULD",
        "VFIO_MIG_GET_PRECOPY_INFO outside PRE_COPY fails with EINVAL on a live fd",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-084", "SHOULD", "initial_bytes is not zero at first", _PRECOPY, "pre_copy", since="v6.2"),
    _c(
        "MIG-085",
        "SHOULD",
        "initial_bytes falls as data is read and reaches zero",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-086",
        "SHOULD",
        "initial_bytes does not grow without VFIO_PRECOPY_INFO_REINIT",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-087", "MUST", "dirty_bytes starts at zero", _PRECOPY, "pre_copy", since="v6.2"),
    _c(
        "MIG-088",
        "MUST",
        "an argsz smaller than struct vfio_precopy_info is refused",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-089",
        "MUST",
        "while initial_bytes or dirty_bytes is not zero, read delivers data",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-090",
        "MUST",
        "after the opt-in to PRECOPY_INFOv2 flags has no bit but REINIT",
        _PRECOPY,
        "pre_copy",
        "precopy_info_v2",
        since="v7.2",
    ),
    _c(
        "MIG-091",
        "MUST",
        "PRECOPY_INFOv2 can be SET, and is not readable",
        "vfio.h, VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2",
        "pre_copy",
        "precopy_info_v2",
        since="v7.2",
    ),
    _c(
        "MIG-092",
        "MUST",
        "VFIO_MIG_GET_PRECOPY_INFO on a resuming fd is refused",
        _PRECOPY,
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-093", "MUST", "GET of MIG_DATA_SIZE succeeds in every state", _SIZE, "data_size", since="v6.3"),
    _c("MIG-094", "MUST", "SET of MIG_DATA_SIZE is refused", _SIZE, "data_size", since="v6.3"),
    _c(
        "MIG-095",
        "MUST",
        "leaving PRE_COPY unread loses nothing: the stream is whole in STOP_COPY",
        f"{_FSM}, saving group",
        "pre_copy",
        since="v6.2",
    ),
    # -- fidelity
    _c("MIG-100", "MUST", "a device resumes the stream that it saved", f"{_FSM}, STOP -> RESUMING"),
    _c(
        "MIG-101",
        "MUST",
        "a device restored from a stream has the state that was saved",
        f"{_FSM}, RESUMING -> STOP",
        "state_regions",
    ),
    _c(
        "MIG-102",
        "SHOULD",
        "two saves of a device that did not run between them give the same stream",
        f"{_FSM}, STOP: it must not change its internal state",
    ),
    _c("MIG-103", "MUST", "any segmentation of the writes restores the same state", _STATE),
    _c("MIG-104", "MUST", "any segmentation of the reads gives the whole stream", f"{_STATE}, byte order"),
    # SHOULD: SET must fail where a driver *finds* the data incomplete, and it should check.  What it must
    # have found, for its own write() was refused, is MIG-107.
    _c("MIG-105", "SHOULD", "a truncated stream makes RESUMING -> STOP fail", f"{_FSM}, RESUMING -> STOP"),
    _c("MIG-106", "SHOULD", "an empty stream makes RESUMING -> STOP fail", f"{_FSM}, RESUMING -> STOP"),
    _c(
        "MIG-107",
        "MUST",
        "a stream the driver refused at write() makes RESUMING -> STOP fail",
        f"{_FSM}, RESUMING -> STOP: incomplete, inconsistent, or otherwise invalid",
        "write_refused",
    ),
    _c(
        "MIG-108",
        "MUST",
        "a stream followed by excess bytes is refused, or restores just the saved state",
        f"{_FSM}, RESUMING -> STOP",
    ),
    _c("MIG-109", "SHOULD", "a stream of random bytes is refused", f"{_FSM}, RESUMING -> STOP"),
    _c("MIG-110", "SHOULD", "a stream with its halves exchanged is refused", f"{_STATE}, byte order"),
    _c("MIG-111", "MUST", "a refused stream leaves RESUMING, STOP or ERROR, and GET tells which", _STATE),
    _c(
        "MIG-112",
        "MUST",
        "after a refused stream and a reset the device saves and restores in full",
        f"{_FSM}, to abort a RESUMING session the device must be reset",
        "reset",
    ),
    _c(
        "MIG-113",
        "MUST",
        "a reset in RESUMING aborts the session and leads to RUNNING",
        f"{_FSM}, to abort a RESUMING session the device must be reset",
        "reset",
    ),
    _c(
        "MIG-114",
        "MUST",
        "a damaged stream that was accepted leaves a device that still saves and resets",
        f"{_FSM}, RESUMING -> STOP",
        "damage_accepted",
        "reset",
    ),
    _c(
        "MIG-115",
        "MUST",
        "saving does not change the state of the device",
        f"{_FSM}, each arc does not change the device operation",
        "state_regions",
    ),
    _c(
        "MIG-116",
        "MUST",
        "a save cancelled half-way does not change the state of the device",
        f"{_FSM}, each arc does not change the device operation",
        "state_regions",
    ),
    _c(
        "MIG-117",
        "MUST",
        "arcs between RUNNING and RUNNING_P2P do not change the state of the device",
        _FSM,
        "state_regions",
        "p2p",
    ),
    _c(
        "MIG-118",
        "MUST",
        "what changed during PRE_COPY is in the restored state",
        f"{_FSM}, PRE_COPY tracks internal state changes",
        "pre_copy",
        "state_regions",
        since="v6.2",
    ),
    _c(
        "MIG-119",
        "MUST",
        "a stream read partly in PRE_COPY and the rest in STOP_COPY restores the state",
        f"{_FSM}, saving group",
        "pre_copy",
        since="v6.2",
    ),
    _c("MIG-120", "MUST", "a second STOP_COPY session delivers the whole stream again", f"{_FSM}"),
    _c("MIG-121", "MUST", "a write to a resuming fd consumes no more than it was given", _MAN),
    # -- quiescence, without an engine
    _c(
        "MIG-125",
        "MUST",
        "an idle device in STOP does not change its internal state",
        f"{_FSM}, STOP",
        "state_regions",
    ),
    _c(
        "MIG-126",
        "MUST",
        "in STOP the device answers accesses to its regions",
        f"{_FSM}, STOP: must accept and respond to interaction",
        "regions",
    ),
    _c(
        "MIG-127",
        "MUST",
        "in STOP_COPY and RESUMING access to the regions does no harm outside the user",
        f"{_FSM}, STOP: failure by the user to restrict device access",
        "regions",
    ),
    # -- quiescence, with traffic
    _c(
        "MIG-128",
        "MUST",
        "in STOP, STOP_COPY and RESUMING the device raises no interrupt",
        f"{_FSM}, STOP: must not generate interrupts",
        "engine_interrupt",
    ),
    _c(
        "MIG-129",
        "MUST",
        "in STOP, STOP_COPY and RESUMING the device does no DMA",
        f"{_FSM}, STOP: must not generate DMA",
        "engine_quiesces",
    ),
    _c(
        "MIG-170",
        "MUST",
        "when SET into STOP or a P2P state returns, no DMA that it must end is still under way",
        f"{_FSM}, P2P: must complete any such outstanding operations prior to completing the arc; STOP",
        "engine_begin",
    ),
    _c(
        "MIG-171",
        "MUST",
        "in RUNNING_P2P and PRE_COPY_P2P the device starts no peer-to-peer DMA",
        f"{_FSM}, P2P: must prevent the device from initiating any new P2P DMA transactions",
        "p2p",
        "engine_p2p",
    ),
    _c(
        "MIG-172",
        "MUST",
        "traffic that an arc has stopped goes on when the device is back in RUNNING",
        f"{_FSM}, RUNNING: the device is fully operational; STOP: must not change its internal state",
        "engine_endless",
    ),
    _c(
        "MIG-173",
        "MUST",
        "a device that was busy does not change its internal state in STOP",
        f"{_FSM}, STOP: must not change its internal state",
        "engine_quiesces",
        "state_regions",
    ),
    _c(
        "MIG-174",
        "MUST",
        "a device that is restored from a busy one goes on with the traffic in RUNNING, and not before",
        f"{_FSM}, RESUMING: the incorporation of data written into the device internal state",
        "engine_endless",
    ),
    _c(
        "MIG-175",
        "MUST",
        "DMA that is asked for in STOP, STOP_COPY or RESUMING does not happen before RUNNING",
        f"{_FSM}, STOP: must not generate DMA",
        "engine_begin",
    ),
    _c(
        "MIG-176",
        "MUST",
        "DMA that was asked for before STOP is done when the device is back in RUNNING",
        f"{_FSM}, STOP: must not change its internal state; RUNNING",
        "engine_begin",
    ),
    _c(
        "MIG-177",
        "MUST",
        "back in RUNNING from STOP the device raises interrupts again",
        f"{_FSM}, RUNNING: the device may generate interrupts",
        "engine_interrupt",
    ),
    # -- ERROR
    _c("MIG-130", "MUST", "in ERROR every SET is refused", f"{_FSM}, any -> ERROR", "error_reached"),
    _c(
        "MIG-131",
        "MUST",
        "in ERROR GET reports ERROR until a reset",
        f"{_FSM}, any -> ERROR",
        "error_reached",
    ),
    _c(
        "MIG-132",
        "MUST",
        "in ERROR the data fd of the failed session delivers and takes no data",
        _FSM,
        "error_reached",
    ),
    _c(
        "MIG-133",
        "MUST",
        "a reset leaves ERROR and leads to RUNNING",
        f"{_FSM}, any -> ERROR",
        "error_reached",
        "reset",
    ),
    # -- reset
    _c("MIG-140", "MUST", "a reset in STOP or RUNNING_P2P leads to RUNNING", _FSM, "reset"),
    _c("MIG-141", "MUST", "a reset in RUNNING leaves RUNNING", _FSM, "reset"),
    _c("MIG-142", "MUST", "a reset in PRE_COPY, PRE_COPY_P2P or STOP_COPY leads to RUNNING", _FSM, "reset"),
    _c(
        "MIG-143",
        "MUST",
        "a device that says VFIO_DEVICE_FLAGS_RESET resets",
        "vfio.h, VFIO_DEVICE_FLAGS_RESET",
        "reset_flag",
    ),
    _c("MIG-144", "MUST", "after a reset in any state the device saves and restores in full", _FSM, "reset"),
    # -- close and reopen
    _c(
        "MIG-150",
        "MUST",
        "a device closed in any state can be opened again and brought to RUNNING",
        f"{_FSM}",
        "reset",
    ),
    _c("MIG-151", "MUST", "a data fd that outlives its device fd does no harm when used or closed", _FSM),
    # -- concurrency and failing paths
    _c(
        "MIG-160", "MUST", "concurrent SETs act as if one came after the other", f"{_STATE}, fully transition"
    ),
    _c("MIG-161", "MUST", "SET and reset at the same time act as if one came after the other", _FSM, "reset"),
    _c(
        "MIG-162",
        "MUST",
        "GET during a SET sees the state before or after it",
        f"{_FSM}, the automatic transit is invisible to the user",
    ),
    _c(
        "MIG-163",
        "MUST",
        "a read during the end of its session delivers data of the session or an error",
        _FSM,
    ),
    _c("MIG-164", "MUST", "no concurrent use of the interface hangs", _STATE),
    _c(
        "MIG-165",
        "MUST",
        "a SET that fails for want of memory or fds keeps the rules for a failed SET",
        _STATE,
        "fault_injection",
    ),
    _c(
        "MIG-166",
        "MUST",
        "no use of the interface makes the kernel report an error",
        f"{_FSM}, must not result in error conditions outside the user context",
    ),
    _c("MIG-167", "MUST", "no use of the interface taints the kernel", f"{_FSM}"),
    _c(
        "MIG-168",
        "MUST",
        "a fault address given as the argument is EFAULT, and the state is still told by GET",
        _STATE,
    ),
    _c(
        "MIG-178",
        "SHOULD",
        "where poll says in PRE_COPY that the data fd is readable, a read gives data",
        f"{_PRECOPY}: userspace can wait for more data (which may never come) by using poll",
        "pre_copy",
        since="v6.2",
    ),
    _c(
        "MIG-179",
        "SHOULD",
        "the estimate of MIG_DATA_SIZE is not zero where STOP_COPY then gives data",
        f"{_SIZE}: the estimated data length that will be required to complete stop copy",
        "data_size",
        since="v6.3",
    ),
)
