# SPDX-License-Identifier: Apache-2.0
"""Chapter DIRTY, part one: device DMA logging, every rule as a clause in our own words.

Sources are comments of `include/uapi/linux/vfio.h` unless another file is named.  A rule on which that text is
silent is a SHOULD, and its source says what it rests on.  Part two, tracking by the IOMMU, has the ids from
DIRTY-100 on.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_FEATURE = "vfio.h, VFIO_DEVICE_FEATURE"
_START = "vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_START"
_STOP = "vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP"
_REPORT = "vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT"
_OPS = "include/linux/vfio.h, struct vfio_log_ops"
_CORE = "vfio_main.c, vfio_ioctl_device_feature_logging_start(); vfio.h is silent"
_CORE_REPORT = "vfio_main.c, vfio_ioctl_device_feature_logging_report(); vfio.h is silent"


def _c(id: str, level: Level, statement: str, source: str, *needs: str) -> Clause:
    return Clause(id, level, statement, source, ("dma_logging", *needs), "v6.1")


def _w(id: str, level: Level, statement: str, source: str, *needs: str) -> Clause:
    """A clause that needs a device with a traffic engine."""
    return _c(id, level, statement, source, "engine", *needs)


CLAUSES: tuple[Clause, ...] = (
    # -- discovery
    Clause(
        "DIRTY-001",
        "MUST",
        "a device that declares one of DMA_LOGGING_START, STOP and REPORT declares all of them",
        f"{_START}: a matching stop should follow; {_REPORT}",
        ("dma_logging_any",),
        "v6.1",
    ),
    _c("DIRTY-002", "MUST", "PROBE of START with GET, STOP with GET, REPORT with SET is refused", _FEATURE),
    _c("DIRTY-003", "MUST", "PROBE of START, STOP and REPORT changes nothing of the log", _FEATURE),
    _c("DIRTY-004", "MUST", "START and REPORT with an argsz too small for their data are refused", _FEATURE),
    _c("DIRTY-005", "MUST", "START and STOP by GET, and REPORT by SET, are refused", _FEATURE),
    _c("DIRTY-006", "MUST", "an argsz larger than the data is accepted", _FEATURE),
    # -- START
    _c("DIRTY-010", "MUST", "START of one aligned range succeeds while no log is kept", _START),
    _c(
        "DIRTY-011",
        "MUST",
        "START takes as many ranges as fit into one page of the kernel",
        f"{_START}: guarantees to support by minimum num_ranges that fit into a single kernel page",
    ),
    _c(
        "DIRTY-012",
        "MUST",
        "a second START before STOP is refused",
        f"{_START}: another start is not allowed in the meantime",
    ),
    _w(
        "DIRTY-013",
        "MUST",
        "a second START that is refused loses nothing of the log",
        f"{_START}: each DMA inside the range will be logged for later retrieval",
    ),
    _c(
        "DIRTY-014",
        "MUST",
        "a START that fails leaves no log: REPORT fails and another START succeeds",
        f"{_REPORT}: if DMA logging is not enabled, an error will be returned",
    ),
    _c(
        "DIRTY-015",
        "MUST",
        "a page_size that the device cannot do does not make START fail",
        f"{_START}: page_size is an input that hints; it's the driver choice which page size to pick",
    ),
    _c(
        "DIRTY-016",
        "SHOULD",
        "the page_size that START gives back is a power of two",
        f"{_START}: on output the device will return the page size it selected; read with that of REPORT",
    ),
    _c("DIRTY-017", "SHOULD", "START with ranges that overlap is refused", _CORE),
    _c("DIRTY-018", "SHOULD", "START with a range that is not aligned to its page_size is refused", _CORE),
    _c("DIRTY-019", "SHOULD", "START with a range that reaches past 2^64 is refused", _CORE),
    _c("DIRTY-020", "SHOULD", "START without ranges is refused", _CORE),
    _c(
        "DIRTY-021",
        "MUST",
        "a START that the text does not foresee (an empty range, an odd page_size, reserved bits, too many "
        "ranges) leaves a device that can still be started, asked and stopped",
        f"{_OPS}: must handle arbitrary user requests",
    ),
    _c(
        "DIRTY-022",
        "MUST",
        "START with ranges at an address that faults is refused",
        f"{_START}: ranges is a pointer to an array",
    ),
    # -- what the log holds
    _w(
        "DIRTY-030",
        "MUST",
        "every page that the device wrote inside the ranges since START or its last report is reported",
        f"{_START}: each DMA that the device initiates inside the range will be logged",
    ),
    _w(
        "DIRTY-031",
        "MUST",
        "a page that was reported and not written since is not reported again",
        f"{_REPORT}: the log is cleared for the IOVA range",
    ),
    _w(
        "DIRTY-032",
        "MUST",
        "a report clears nothing outside its range",
        f"{_REPORT}: the log is cleared for the IOVA range",
    ),
    _c(
        "DIRTY-033",
        "MUST",
        "a report clears no bit of the caller's bitmap",
        f"{_REPORT}: will only set bits in the bitmap and never clear",
    ),
    _w(
        "DIRTY-034",
        "MUST",
        "a report sets no bit for what lies outside its range",
        f"{_REPORT}: written pages within the given IOVA range",
    ),
    _w(
        "DIRTY-035",
        "MUST",
        "a report writes nothing beside its bitmap",
        f"{_REPORT}: an array of u64s that will hold the output bitmap",
    ),
    _w(
        "DIRTY-036",
        "MUST",
        "a report in larger pages than the log's has a bit for each page of which a part was written",
        f"{_REPORT}: the driver will format its internal logging to match the reporting page size",
    ),
    _w(
        "DIRTY-037",
        "MUST",
        "a report in smaller pages than the log's has the bit of each page that was written",
        f"{_REPORT}: possibly by replicating bits if the internal page size is lower than requested",
    ),
    _w(
        "DIRTY-038",
        "MUST",
        "a report into a bitmap anywhere in a page of memory is complete",
        f"{_REPORT}: bitmap is a pointer to an array of u64s",
    ),
    _c(
        "DIRTY-039",
        "MUST",
        "REPORT while no log is kept is refused",
        f"{_REPORT}: if DMA logging is not enabled, an error will be returned",
    ),
    _c("DIRTY-040", "MUST", "STOP while a log is kept succeeds and ends it: REPORT is refused", _STOP),
    _w(
        "DIRTY-041",
        "SHOULD",
        "a START begins with an empty log, whatever an earlier one held",
        f"{_STOP}; vfio.h is silent on the old log, which nobody can want",
    ),
    _c("DIRTY-042", "MUST", "START after STOP succeeds, as often as one likes", f"{_START}, {_STOP}"),
    _w(
        "DIRTY-043",
        "MUST",
        "every one of many ranges is logged, be they adjacent or far apart",
        f"{_START}: a range of IOVAs to monitor is provided",
    ),
    _w(
        "DIRTY-044",
        "MUST",
        "a write that begins or ends inside a page makes the first and the last page it touches dirty",
        f"{_START}: each DMA that the device initiates inside the range will be logged",
        "engine_bytes",
    ),
    _w(
        "DIRTY-045",
        "MUST",
        "the log outlives every change of the migration state",
        f"{_START}: this API is not connected to VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
        "migration",
    ),
    _w(
        "DIRTY-046",
        "MUST",
        "after a reset REPORT fails or still has every page written since START",
        f"{_REPORT}: an error, or the written pages; vfio.h lets a reset end the log, not lose it",
        "reset",
    ),
    _c(
        "DIRTY-047",
        "SHOULD",
        "on a device just opened no log is kept: REPORT is refused and START succeeds",
        f"{_START}, {_REPORT}; vfio.h is silent on close",
    ),
    _c(
        "DIRTY-048",
        "MUST",
        "while a log is kept REPORT succeeds in every migration state but ERROR",
        f"{_START}: this API is not connected to VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
        "migration",
    ),
    _c(
        "DIRTY-049",
        "MUST",
        "START and STOP succeed in every migration state but ERROR",
        f"{_START}: this API is not connected to VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
        "migration",
    ),
    _c(
        "DIRTY-050",
        "SHOULD",
        "REPORT with a page_size that is not a power of two is refused",
        f"{_REPORT}: the input page_size can be any power of two",
    ),
    _c("DIRTY-051", "SHOULD", "REPORT of a range that reaches past 2^64 is refused", _CORE_REPORT),
    _w(
        "DIRTY-053",
        "MUST",
        "a report that reaches beyond the ranges is refused or has every page written inside them",
        f"{_REPORT}: query the device's DMA log for written pages within the given IOVA range",
    ),
    _w(
        "DIRTY-054",
        "MUST",
        "a page that the device only reads is not reported",
        f"{_START}: only DMA WRITEs are logged",
        "engine_read",
    ),
    _w(
        "DIRTY-055",
        "MUST",
        "reports beside DMA lose no page: it is in one of them, or in the next",
        f"{_START}: each DMA that the device initiates inside the range will be logged",
    ),
    _w(
        "DIRTY-056",
        "MUST",
        "several reports at once lose no page: it is in one of them",
        f"{_REPORT}: read back and clear the device DMA log",
    ),
    _w(
        "DIRTY-057",
        "MUST",
        "a report of a large range is complete in every part of its bitmap",
        f"{_REPORT}: an array of u64s",
    ),
    _w(
        "DIRTY-058",
        "MUST",
        "a page that is written again after it was reported is reported again",
        f"{_REPORT}: read back and clear the device DMA log",
    ),
    _c(
        "DIRTY-059",
        "MUST",
        "STOP and REPORT while no log is kept do no harm: START succeeds after them",
        f"{_OPS}: graceful handling of log_stop and log_read_and_clear from invalid states",
    ),
    _w(
        "DIRTY-060",
        "MUST",
        "DMA outside the ranges does not disturb the log of those inside",
        f"{_START}: the device can optimize its logging to cover only the IOVA range given",
    ),
    _c(
        "DIRTY-061",
        "MUST",
        "REPORT while a log is kept and of pages inside its ranges succeeds",
        f"{_REPORT}: query the device's DMA log for written pages within the given IOVA range",
    ),
)
