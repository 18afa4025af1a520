"""Numbers and hostile strings as text that people read. Pure."""

from __future__ import annotations

import math
import unicodedata

from nestbench_reports.stats import Estimate

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """`text` without what a terminal or a browser acts upon: control characters, bidi overrides, lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_printable_character(character) for character in text)


def _printable_character(character: str) -> str:
    if character in "\n\t":
        return " "
    if unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI:
        return "\N{REPLACEMENT CHARACTER}"
    return character


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thousands grouped, no exponent where a person would not write one."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 15 or size < -6:
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - size)
    return f"{rounded:,.{max(0, digits - 1 - size)}f}"


_TIME_STEPS = ((1e9, "s"), (1e6, "ms"), (1e3, "\N{MICRO SIGN}s"), (1.0, "ns"))
_TIME_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def quantity(value: float, unit: str) -> str:
    """A value in its unit; times go up to the step that reads best: 26,600 ns/op -> 26.6 us/op."""
    prefix, slash, operation = unit.partition("/")
    if prefix in _TIME_NS:
        nanoseconds = value * _TIME_NS[prefix]
        for step, name in _TIME_STEPS:
            if abs(nanoseconds) >= step or step == 1.0:
                return f"{number(nanoseconds / step)} {name}{slash}{operation}"
    return f"{number(value)} {printable(unit)}"


def time_ns(value: float, unit: str) -> float | None:
    """A time in ns, whatever step its unit has; None when the unit is not a time."""
    factor = _TIME_NS.get(unit.partition("/")[0])
    return None if factor is None else value * factor


def ratio(value: float) -> str:
    """A ratio near 1 with three decimals, a large one with three digits."""
    return f"{value:.3f}" if 0.1 <= value < 10 else number(value)


def interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{ratio(estimate.low)}\N{EN DASH}{ratio(estimate.high)}"


def percent(fraction: float) -> str:
    return f"{number(100 * fraction, 2)} %"


def bytes_text(count: float) -> str:
    """A power of two as people say it: 16 KiB, 2 MiB."""
    for step, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= step:
            scaled = count / step
            return f"{scaled:.0f} {name}" if scaled == int(scaled) else f"{number(scaled)} {name}"
    return f"{count:.0f} B"


def parameter(name: str, value: str | int) -> str:
    """One parameter for a label: sizes readable, the rest as it is."""
    if name.endswith("_bytes") and isinstance(value, int) and value > 0:
        return f"{name.removesuffix('_bytes').replace('_', ' ')} {bytes_text(value)}"
    return printable(f"{name.replace('_', ' ')} {value}")


def plural(count: int, noun: str, many: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
