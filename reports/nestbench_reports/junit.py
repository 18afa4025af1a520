"""A gate's result as JUnit XML, as CI systems read it. Pure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from nestbench_reports.gate import GateResult, Judgement, Outcome

# What XML 1.0 (section 2.2, "Characters") cannot hold, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
_SKIPPED = (Outcome.TOLERATED, Outcome.ACCEPTED, Outcome.LACKING)
_FAILURE = (Outcome.FAIL, Outcome.INCONCLUSIVE)
_ERROR = (Outcome.BROKEN, Outcome.UNSUPPORTED, Outcome.REFUSED)


def clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _case(suite: ElementTree.Element, judgement: Judgement) -> None:
    scenario = judgement.id.partition("/")[0]
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=clean(f"nestbench.{scenario}"),
        name=clean(f"{judgement.id}: {judgement.rule}"),
        time="0",
    )
    text = f"{judgement.text}; {judgement.reason}" if judgement.reason else judgement.text
    if judgement.outcome in _SKIPPED:
        ElementTree.SubElement(case, "skipped", message=clean(f"{judgement.outcome.value}: {text}"))
    elif judgement.outcome in _FAILURE + _ERROR:
        tag = "failure" if judgement.outcome in _FAILURE else "error"
        element = ElementTree.SubElement(case, tag, type=judgement.outcome.value, message=clean(text))
        element.text = clean(f"{judgement.rule}\n{text}")
    else:
        ElementTree.SubElement(case, "system-out").text = clean(text)


def junit(result: GateResult) -> bytes:
    """One suite; a test case for each judgement, tolerated and lacking ones as skipped."""
    counts = {
        "tests": len(result.judgements),
        "failures": sum(map(result.count, _FAILURE)),
        "errors": sum(map(result.count, _ERROR)),
        "skipped": sum(map(result.count, _SKIPPED)),
    }
    totals = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "nestbench gate", **totals})
    suite = ElementTree.SubElement(root, "testsuite", {"name": clean(f"nestbench gate {result.policy}"), **totals})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("document", result.document), ("policy", result.policy), ("verdict", result.headline)):
        ElementTree.SubElement(properties, "property", name=name, value=clean(value))
    for judgement in result.judgements:
        _case(suite, judgement)
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"
