#!/usr/bin/env python3
"""Writes the seeds of this folder's fuzz targets. Run by hand when a target's input changes: make_corpus.py [FOLDER]

A seed opens one path through the code that a fuzzer would need long to find; the rest is the fuzzer's work.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

# Steps of hostile_driver.h; those from 12 on are each target's own.
SET_UP, OFFER, POKE_MEMORY, POKE_DESCRIPTOR, POKE_RING = 0, 1, 3, 4, 5
NOTIFY, REGISTER, ACCESS, WORK, ACKNOWLEDGE, RESET = 6, 7, 8, 9, 10, 11
OWN = 12
READ, WRITE, INDIRECT_FLAG = 0, 1, 0xF0
IN_TABLE, QUIET = 0x40, 0x80  # of an offered chain


def work(rounds: int = 4) -> bytes:
    return bytes([WORK, rounds - 1])


def set_up(queues: int, how: int = 0, choices: bytes = b"") -> bytes:
    return bytes([SET_UP, how]) + choices.ljust(queues, b"\0")


def data(offset: int) -> bytes:
    """PickAddress: so many bytes into the data area."""
    return b"\0" + struct.pack("<H", offset)


def anywhere(address: int) -> bytes:
    return b"\7" + struct.pack("<Q", address)


def length(count: int) -> bytes:
    return b"\7" + struct.pack("<I", count)


def offer(queue: int, *buffers: tuple[int, bytes, int], how: int = 0) -> bytes:
    chain = b"".join(bytes([kind]) + address + length(count) for kind, address, count in buffers)
    return bytes([OFFER, how | (len(buffers) - 1) % 4, queue]) + chain


def descriptor(queue: int, index: int, address: bytes, count: int, flags: int, following: int) -> bytes:
    return bytes([POKE_DESCRIPTOR, queue, index]) + address + length(count) + bytes([flags, following])


def register(offset: int, value: int) -> bytes:
    return bytes([REGISTER, offset // 4]) + struct.pack("<I", value)


def publish(queue: int, by: int) -> bytes:
    return bytes([POKE_RING, queue, 1]) + struct.pack("<H", by) + bytes([NOTIFY, queue])


def hostile(queues: int, kind: int = WRITE) -> dict[str, bytes]:
    """What is common to all devices with a queue 0 that takes buffers of one kind."""
    good = offer(0, (kind, data(0), 64))
    end = 0x10_0000 + 0x2_0000
    return {
        "good": set_up(queues) + good + work() + bytes([ACKNOWLEDGE, 3]) + good + work(),
        "no-event-index": set_up(queues, how=3) + good + work() + good * 20 + work(),
        "indirect": set_up(queues) + offer(0, (kind, data(0), 64), (kind, data(64), 64), how=IN_TABLE) + work(),
        "loop": set_up(queues) + good + descriptor(0, 0, data(0), 16, 2 * kind + 1, 0) + work(),
        "index-jumps": set_up(queues) + publish(0, 0xFF) + work(),
        "outside": set_up(queues) + offer(0, (kind, anywhere(end - 8), 16)) + work() + bytes([RESET]),
        "wraps": set_up(queues) + offer(0, (kind, anywhere(2**64 - 8), 16)) + work(),
        "read-only": set_up(queues) + offer(0, (WRITE, anywhere(0x4000_0000), 16)) + work(),
        "bad-table": set_up(queues) + offer(0, (INDIRECT_FLAG | kind, data(0), 32)) + work(),
        "reset": set_up(queues) + good + bytes([RESET]) + set_up(queues) + good * 3 + bytes([RESET]) + work(),
        "odd-ring": set_up(queues, choices=bytes([0xC0]) + anywhere(0x4000_0000)) + good + work(),
        "small-queue": set_up(queues, choices=bytes([3])) + good + work(),
        "registers": register(0x14, 1) + register(0x24, 1) + register(0x20, 1) + register(0x70, 11)
        + register(0x30, 0) + register(0x38, 8) + register(0x44, 1) + register(0x70, 15) + bytes([ACCESS, 4]) + b"\0\1",
    }


def block_request(how: int, choice: int, sector: int, rest: bytes) -> bytes:
    return bytes([OWN + 2, how, choice, sector]) + rest


def block_seeds() -> dict[str, bytes]:
    read = block_request(0, 0, 3, data(0) + length(512))
    write = block_request(0, 1, 3, data(0) + length(1024))
    flush = block_request(0, 2, 0, b"")
    discard = block_request(0, 3, 4, bytes([8, 0]))
    zeroes = block_request(0, 4, 4, bytes([8, 1]))
    name = block_request(0, 5, 0, data(0) + length(20))
    release = bytes([OWN + 1, 0])
    programs = {
        "every-request": read + write + flush + discard + zeroes + name + work(),
        "slow": (write + flush + read) * 2 + work() + release * 3 + work() + bytes([RESET]) + set_up(1),
        "out-of-order": write + read + flush + work() + bytes([OWN + 1, 2, OWN + 1, 1, OWN + 1, 0]) + work(),
        "errors": bytes([OWN, 14]) + write + read + flush + work() + release * 3 + work(),
        "end": block_request(0, 0, 127, data(0) + length(1024)) + work(),
        "no-status": block_request(0x10, 1, 0, data(0) + length(512)) + work(),
    }
    seeds = {name: b"\2" + set_up(1) + program for name, program in programs.items()}
    seeds["slow"] = b"\0" + seeds["slow"][1:]
    seeds["out-of-order"] = b"\0" + seeds["out-of-order"][1:]
    seeds["read-only-disk"] = b"\3" + set_up(1) + programs["every-request"]
    seeds["two-queues"] = b"\6" + set_up(2) + read + block_request(0x40, 1, 3, data(0) + length(1024)) + work()
    return seeds | {f"any-{name}": b"\2" + seed for name, seed in hostile(1).items()}


def block_file_seeds() -> dict[str, bytes]:
    seeds = {name: seed[1:] for name, seed in block_seeds().items() if not name.startswith(("two", "read-only-d"))}
    seeds["cut"] = set_up(1) + bytes([OWN]) + struct.pack("<H", 1500) + block_request(0, 0, 2, data(0) + length(1024))
    seeds["cut"] += work() + work()
    return seeds


def net_seeds() -> dict[str, bytes]:
    def send(how: int = 0, kind: int = 0, size: int = 0, rest: int = 100) -> bytes:
        return bytes([OWN + 3, how, kind]) + struct.pack("<H", size) + bytes([0xF0]) + bytes(8) + length(rest)

    room = bytes([OWN + 1, 3]) + b"".join(bytes([i]) + length(2048) for i in range(4))
    small_room = bytes([OWN + 1, 3]) + b"".join(bytes([i]) + length(64) for i in range(4))
    command = bytes([OWN + 2, 3])
    wire = {
        "pairs": set_up(7) + command + work() + send(4) + room + work() + send(8) + work(),
        "no-buffers": set_up(7) + send() * 3 + work() + small_room + work() + room + work(),
        "link": set_up(7) + bytes([OWN, 0]) + send() + work() + bytes([OWN, 1]) + send() + work(),
    }

    def on(guest: int, *steps: bytes) -> bytes:
        return b"".join(bytes([guest]) + step for step in steps)

    switch = {
        "plain": on(0, set_up(3)) + on(1, set_up(3), room) + on(0, send(0x40), work()) + on(1, work()),
        "segments": on(0, set_up(3)) + on(1, set_up(3, how=4) + bytes(8), room)
        + on(0, send(0x40, 1, 100, 1000), work()) + on(1, work()),
        "segments-6": on(0, set_up(3)) + on(1, set_up(3), room) + on(0, send(0x60, 4, 9, 1000), work()) + on(1, work()),
        "long": on(0, set_up(3)) + on(1, set_up(3), small_room) + on(0, send(0x40, 0, 0, 20000), work())
        + on(1, work(), room, work()),
        "lies": on(0, set_up(3)) + on(1, set_up(3), room) + on(0, send(0x40, 3, 9), send(0x40, 5, 9), work()),
        "answer": on(0, set_up(3), room) + on(1, set_up(3), room) + on(0, send(4), work()) + on(1, send(1), work())
        + on(0, work()),
    }
    seeds = {f"wire-{name}": b"\1" + seed for name, seed in wire.items()}
    seeds |= {f"switch-{name}": b"\0" + seed for name, seed in switch.items()}
    return seeds | {f"any-{name}": b"\1" + seed for name, seed in hostile(7).items()}


def console_seeds() -> dict[str, bytes]:
    push = bytes([OWN, 5]) + b"input"
    seeds = hostile(2)
    seeds["print"] = set_up(2) + offer(1, (READ, data(0), 9), (READ, data(90), 7)) + work()
    seeds["input"] = push + set_up(2) + offer(0, (WRITE, data(0), 3)) + work() + push + offer(0, (WRITE, data(0), 99))
    seeds["too-much"] = set_up(2) + offer(1, *[(READ, anywhere(0x10_0000), 0x2_0000)] * 4) + work()
    seeds["emergency"] = bytes([ACCESS, 0x81, 8, 1, 65])
    return seeds


def balloon_seeds() -> dict[str, bytes]:
    def pages(how: int, *addresses: bytes) -> bytes:
        return bytes([OWN + 2, how | (len(addresses) - 1)]) + b"".join(addresses)

    seeds = hostile(4, READ)
    seeds["inflate"] = set_up(4) + bytes([OWN]) + struct.pack("<I", 9) + pages(0, data(0x8000), data(0xA000)) + work()
    seeds["deflate"] = set_up(4) + pages(0x80, data(0x8000)) + work()
    seeds["foreign"] = set_up(4) + pages(0, anywhere(0xFFFF_F000)) + work()
    seeds["read-only-page"] = set_up(4) + pages(0, anywhere(0x4000_0000)) + work()
    seeds["statistics"] = set_up(4) + offer(2, (READ, data(0), 30)) + work() + bytes([OWN + 1]) + work()
    seeds["report"] = set_up(4) + offer(3, (WRITE, data(0x8000), 4096), (WRITE, data(0x9008), 4096)) + work()
    seeds["own-rings"] = set_up(4) + pages(0, anywhere(0x10_0000), anywhere(0x10_1000)) + work() * 2
    return seeds


def transport_seeds() -> dict[str, bytes]:
    seeds = hostile(3)
    signals = b"".join(bytes([OWN + 1, choice]) for choice in (0, 1, 2, 0))
    seeds["signals"] = set_up(3) + signals + bytes([ACKNOWLEDGE, 1]) + signals + bytes([ACKNOWLEDGE, 2])
    seeds["refused"] = bytes([OWN, 1]) + set_up(3) + bytes([RESET, OWN, 0]) + set_up(3)
    seeds["not-accepted"] = set_up(3, how=4) + struct.pack("<Q", 0x54)
    seeds["any-features"] = set_up(3, how=0x70) + struct.pack("<Q", 2**64 - 1)
    return seeds


def queue_seeds() -> dict[str, bytes]:
    def memory(address: int, content: bytes) -> bytes:
        return bytes([0]) + anywhere(address) + bytes([len(content)]) + content

    base = 0x10_0000
    pop, push, notify, enable = bytes([1, 0, 200, 3, 0]), bytes([4]) + bytes(4), bytes([5]), bytes([6])
    ring = memory(base + 0x1000, struct.pack("<HHHH", 0, 2, 0, 1))
    readable = struct.pack("<QIHH", base + 0x4000, 100, 1, 1) + struct.pack("<QIHH", base + 0x5000, 200, 0, 0)
    writable = struct.pack("<QIHH", base + 0x4000, 100, 3, 1) + struct.pack("<QIHH", base + 0x5000, 200, 2, 0)
    table = struct.pack("<QIHH", base + 0x6000, 32, 4, 0)
    loop = struct.pack("<QIHH", base + 0x4000, 100, 1, 0)
    tail = pop + push + notify + enable + pop + push + notify
    return {
        "readable": b"\4" + memory(base, readable) + ring + tail,
        "writable": b"\x44" + memory(base, writable) + ring + tail,
        "indirect": b"\4" + memory(base, table) + memory(base + 0x6000, readable) + ring + tail,
        "loop": b"\4" + memory(base, loop) + ring + tail,
        "elsewhere": b"\x38" + anywhere(base + 0x100) + anywhere(base + 2) + anywhere(0x4000_0000) + ring + tail,
        "any-size": b"\xf0" + struct.pack("<H", 128) + memory(base, writable) + ring + tail,
    }


def offload_seeds() -> dict[str, bytes]:
    def seed(kind: int, size: int, start: int, frame: bytes, limit: int = 200) -> bytes:
        return bytes([0, limit]) + struct.pack("<BBHHHHH", 1, kind, 0, size, start, 16, 0) + frame

    ethernet = bytes(12)
    tcp = bytes(12) + b"\x50\x19" + bytes(6)
    frame_4 = ethernet + b"\x08\x00" + b"\x45" + bytes(8) + b"\x06" + bytes(10) + tcp
    frame_6 = ethernet + b"\x86\xdd" + b"\x60" + bytes(5) + b"\x06" + bytes(33) + tcp
    payload = bytes(range(256)) * 2
    return {
        "tcp-4": seed(1, 100, 34, frame_4 + payload),
        "tcp-6": seed(4, 100, 54, frame_6 + payload),
        "no-payload": seed(1, 100, 34, frame_4),
        "bytes": seed(1, 1, 34, frame_4 + payload, limit=20),
        "checksum": seed(0, 0, 34, frame_4 + payload[:7]),
        "udp": seed(3, 100, 34, frame_4.replace(b"\x06", b"\x11") + payload),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "corpus"
    targets = {
        "fuzz_virtio_queue": queue_seeds(), "fuzz_virtio_transport": transport_seeds(),
        "fuzz_virtio_block": block_seeds(), "fuzz_virtio_block_file": block_file_seeds(),
        "fuzz_virtio_net": net_seeds(), "fuzz_virtio_offload": offload_seeds(),
        "fuzz_virtio_console": console_seeds(), "fuzz_virtio_rng": hostile(1),
        "fuzz_virtio_balloon": balloon_seeds(),
    }  # fmt: skip
    for target, seeds in targets.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
