#!/usr/bin/env python3
"""Writes the seeds of this folder's fuzz targets. Run by hand when a target's input changes: make_corpus.py [FOLDER]"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

NONE, SET_UP, RUN, VERIFY = range(4)  # abi::Command
NOT_RUN, OK, WRONG_RESULT, BAD_REQUEST, UNSUPPORTED = range(5)  # abi::PayloadStatus
SEQUENCE = 7
SHORT_PAGE = 0x80
VALUES, MESSAGE_BYTES = 128, 256


def reply(
    status: int,
    sequence: int = SEQUENCE,
    begin: int = 1000,
    end: int = 3000,
    operations: int = 100,
    message: bytes = b"",
) -> bytes:
    head = struct.pack("<QII5Q", sequence, status, 0, begin, end, operations, 64, 0xABCD)
    return head + b"\0" * (8 * VALUES) + message.ljust(MESSAGE_BYTES, b"\0")


def mailbox(command: int, content: bytes, iterations: int = 100) -> bytes:
    return struct.pack("<BQ", command, iterations) + content


def mailbox_seeds() -> dict[str, bytes]:
    return {
        "run": mailbox(RUN, reply(OK)),
        "none": mailbox(NONE, reply(OK, begin=0, end=0, operations=0)),
        "wrong-result": mailbox(VERIFY, reply(WRONG_RESULT, message=b"walking back does not lead to the seed")),
        "bad-request": mailbox(SET_UP, reply(BAD_REQUEST, message=b"\x1b[2J" + b"x" * (MESSAGE_BYTES - 4))),
        "other-command": mailbox(RUN, reply(OK, sequence=6)),
        "unknown-status": mailbox(RUN, reply(77)),
        "backwards": mailbox(RUN, reply(OK, begin=3000, end=1000)),
        "too-few": mailbox(RUN, reply(OK, operations=99)),
        "short-page": mailbox(RUN | SHORT_PAGE, reply(OK)[:100]),
    }


def protocol_seeds() -> dict[str, bytes]:
    request = {
        "protocol": 3, "substrate": "vm", "image": "cpu_integer.elf", "operation": 0, "parameters": [0] * 8, "seed": 1,
        "arena_bytes": 0, "host_page_bytes": 4096, "guest_page_bytes": 4096, "reset_arena": False, "cpu": -1,
        "iterations": 0, "batch_target_ns": 10000000, "samples": 5, "max_warmup_batches": 3,
        "deadline_ns": 1000000000, "tsc_hz": 2.5e9, "doorbell": "port", "latencies": False, "disk": "none", "disk_path": "", "disk_bytes": 0,
        "disk_doorbell_exits": False, "disk_polling": False, "io_cpu": -1, "net_peer": "none",
        "net_doorbell_exits": False, "net_polling": False, "net_bytes_per_s": 0, "net_io_cpu": -1, "net_peer_cpu": -1,
    }  # fmt: skip
    answer = {
        "status": "ok", "reason": "", "image_sha256": "0123456789abcdef" * 4, "iterations": 1000, "warmup_batches": 2,
        "voided": 0, "call_overhead_ns": 25.5, "clock_disagreement_max": 0.001, "steal_ns": 0, "run_queue_wait_ns": 0,
        "context_switches": 0, "migrations": 0, "huge_page_bytes": 0, "process_cpu_ns": 5, "exits": 1,
        "nested_runs": 0, "checksum": "18446744073709551615", "resent": 3, "latency_count": 2, "latency_p50_ns": 1.5,
        "latency_p99_ns": 2.5, "latency_p999_ns": 2.5, "latency_max_ns": 2.5,
        "inside_ns": [1.5, 1e9], "outside_ns": [1.5, 1e9], "operations": [1000, 1000], "bytes": [0, 64],
    }  # fmt: skip

    def text(value: object) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"

    crashed = answer | {"status": "crashed", "reason": "vector 6", "image_sha256": ""}
    crashed |= {key: [] for key in ("inside_ns", "outside_ns", "operations", "bytes")}
    return {
        "request": b"\0" + text(request),
        "request-bare": b"\0" + text(request | {"substrate": "bare", "doorbell": "return", "iterations": 100}),
        "request-disk": b"\0"
        + text(request | {"disk": "direct", "disk_path": "/dev/null", "disk_bytes": 1 << 26, "io_cpu": 0}),
        "request-network": b"\0"
        + text(request | {"arena_bytes": 2 << 20, "net_peer": "guest", "net_bytes_per_s": 10**7, "net_io_cpu": 0}),
        "request-network-host": b"\0"
        + text(request | {"arena_bytes": 2 << 20, "net_peer": "host", "net_polling": True, "net_peer_cpu": 1}),
        "request-repeated": b"\0" + b'{"protocol":3,' + text(request)[1:],
        "answer": b"\1" + text(answer),
        "answer-crashed": b"\1" + text(crashed),
        "answer-unknown-key": b"\1" + text(answer | {"more": 1}),
        "deep": b"\1" + b"[" * 64 + b"]" * 64,
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "corpus"
    for target, seeds in {"fuzz_mailbox": mailbox_seeds(), "fuzz_protocol": protocol_seeds()}.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
