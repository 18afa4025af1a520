"""The HTML page: one self-contained file that makes no network request.

Escaping: Jinja's autoescape for HTML; the data block is JSON in which no character can end a script element; charts put
strings into SVG text and textContent only. The page's Content-Security-Policy allows exactly the two scripts in it, by
their digest, and no connection, so that even an escaping defect runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from nestbench_reports.errors import SetupError
from nestbench_reports.charts import Chart
from nestbench_reports.conformance import Known
from nestbench_reports.gate import GateResult
from nestbench_reports.model import Document
from nestbench_reports.view import Page, page

ECHARTS_VARIABLE = "NESTBENCH_ECHARTS"
_PACKAGE = Path(__file__).resolve().parent
_TEMPLATES = _PACKAGE / "templates"
# Beside the package, in the source tree (after npm ci) and installed.
_ECHARTS_PLACES = (_PACKAGE.parent / "node_modules" / "echarts" / "dist" / "echarts.min.js",)


def echarts_path() -> Path:
    """Where the charts library is, or a SetupError that says how to get it."""
    named = os.environ.get(ECHARTS_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SetupError(f"{ECHARTS_VARIABLE} names {named}, which is not a file")
        return Path(named)
    for place in _ECHARTS_PLACES:
        if place.is_file():
            return place
    raise SetupError(
        f"the charts library ECharts is missing: run `npm ci` in {_PACKAGE.parent}, or set {ECHARTS_VARIABLE} to an"
        " echarts.min.js"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}; install nestbench again") from error


def script_json(value: object) -> str:
    """JSON that can stand in a script element: `<`, `>` and `&` only as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 and lone surrogates are escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(script: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") + "'"


def _check_inlinable(script: str, path: Path) -> str:
    """A script that can stand in a script element as it is, with the line ends that the browser will hash."""
    normalized = script.replace("\r\n", "\n").replace("\r", "\n")
    lowered = normalized.lower()
    if "</script" in lowered or "<!--" in lowered:
        raise SetupError(f"{path} cannot be inlined: it holds `</script` or `<!--`")
    return normalized


def chart_data(shown: Page) -> dict[str, Chart]:
    return {figure.id: figure.chart for section in shown.sections for figure in section.figures}


def render(document: Document, judged: GateResult | str, known: Sequence[Known] = ()) -> bytes:
    """The page as UTF-8."""
    import jinja2
    import markupsafe

    shown = page(document, judged, known)
    library_path = echarts_path()
    library = _check_inlinable(_read(library_path), library_path)
    # One script: what draws many tenants and small plots, then what draws everything else and starts it all.
    parts = [_TEMPLATES / name for name in ("tenants.js", "panels.js", "report.js")]
    program = "\n".join(_check_inlinable(_read(path), path) for path in parts)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(library)} {_digest(program)}",
            "style-src 'unsafe-inline'",  # charts set the style attribute of the elements that they make
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        text = environment.get_template("report.html.j2").render(
            page=shown,
            content_security_policy=policy,
            style=markupsafe.Markup(_read(_TEMPLATES / "report.css")),
            library=markupsafe.Markup(library),
            program=markupsafe.Markup(program),
            data=markupsafe.Markup(script_json(chart_data(shown))),
        )
    except jinja2.TemplateNotFound as error:
        raise SetupError(f"cannot read the template {error.name} in {_TEMPLATES}; install nestbench again") from error
    return text.encode("utf-8", errors="replace")
