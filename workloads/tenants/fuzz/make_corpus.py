#!/usr/bin/python3
"""Writes the seeds of fuzz_channel: every type of message with an empty body, and messages that lie."""

from __future__ import annotations

import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus" / "fuzz_channel"
MAGIC = b"NBTC"  # kMessageMagic, little-endian
TYPES = {
    "spawn": 1, "start": 2, "set_load": 3, "report": 4, "inject": 5, "stop": 6, "spawned": 32, "ready": 33,
    "heartbeat": 34, "window": 35, "totals": 36, "histogram": 37, "fault": 38, "load_refused": 39, "ended": 40,
    "log": 41,
}  # fmt: skip
AS_IS = 1


def typed(number: int, body: bytes = b"") -> bytes:
    return struct.pack("<BH", 0, number) + body


def as_is(message: bytes) -> bytes:
    return struct.pack("<BH", AS_IS, len(message)) + message


def header(number: int, size: int, version: int = 1) -> bytes:
    return MAGIC + struct.pack("<HHII", version, number, size, 0)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Heartbeat: at_ns, state; Fault: class first. One of each is a right one.
    bodies = {
        "heartbeat": struct.pack("<QI", 1, 1),
        "fault": struct.pack("<I", 1),
        "load_refused": struct.pack("<I", 4),
    }
    seeds = {name: typed(number, bodies.get(name, b"")) for name, number in TYPES.items()}
    seeds["histogram_entries"] = typed(TYPES["histogram"], struct.pack("<IIIIII", 2, 0, 5, 1, 0xFFFFFFFF, 7))
    seeds["several"] = seeds["heartbeat"].ljust(43, b"\0") + typed(TYPES["stop"])
    seeds["short"] = as_is(b"NBTC")
    seeds["other_version"] = as_is(header(TYPES["stop"], 16, version=2))
    seeds["wrong_length"] = as_is(header(TYPES["stop"], 1 << 30))
    seeds["unknown_type"] = as_is(header(99, 16))
    for name, seed in seeds.items():
        (FOLDER / name).write_bytes(seed)


if __name__ == "__main__":
    main()
