# SPDX-License-Identifier: Apache-2.0
"""JUnit XML: a suite for each device, a case for each clause, a failure for each finding."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from reports.listing import finding_lines, shortened
from reports.models import ClauseResult, DeviceResult, Run
from reports.text import clean, one_line

__all__ = ["render_junit"]

_MAX_FINDINGS = 10
_LOG_LINES = 100


def _case(suite: ET.Element, device: DeviceResult, clause: ClauseResult) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=device.id,
        name=f"{clause.id} {one_line(clause.statement, 200)}",
        time="0",
    )
    details = []
    for finding in clause.findings[:_MAX_FINDINGS]:
        text = "\n".join([*finding_lines(clause, finding), *shortened(finding.kernel_log, _LOG_LINES)])
        details.append((one_line(finding.title, 300), finding.signature, clean(text)))
    reason = one_line(clause.reason)
    if clause.verdict == "fail":
        for title, signature, text in details or [(reason or "failed", "", "")]:
            ET.SubElement(case, "failure", message=title, type=signature or "failure").text = text
    elif clause.verdict == "inconclusive":
        ET.SubElement(case, "error", message=reason, type="inconclusive")
    elif clause.verdict in ("not-applicable", "waived"):
        ET.SubElement(case, "skipped", message=f"{clause.verdict}: {reason}")
    if clause.verdict != "fail" and details:
        out = "\n\n".join(f"{clause.verdict}: {title}\n{text}" for title, _, text in details)
        ET.SubElement(case, "system-out").text = out


def render_junit(run: Run) -> str:
    """The run as JUnit XML; times are zero, since no verdict depends on them."""
    root = ET.Element("testsuites", name="vfiocert")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for device in run.devices:
        verdicts = [clause.verdict for clause in device.clauses]
        counts = {
            "tests": len(verdicts),
            "failures": verdicts.count("fail"),
            "errors": verdicts.count("inconclusive"),
            "skipped": verdicts.count("not-applicable") + verdicts.count("waived"),
        }
        suite = ET.SubElement(root, "testsuite", name=device.id, timestamp=run.started, hostname=run.host)
        for name, count in counts.items():
            suite.set(name, str(count))
            totals[name] += count
        properties = ET.SubElement(suite, "properties")
        for name, value in (
            ("driver", device.driver),
            ("kernel", device.kernel),
            ("kind", device.kind),
            ("verdict", device.verdict),
        ):
            ET.SubElement(properties, "property", name=name, value=value)
        for clause in device.clauses:
            _case(suite, device, clause)
    for name, count in totals.items():
        root.set(name, str(count))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
