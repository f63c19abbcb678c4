# SPDX-License-Identifier: Apache-2.0
"""Hashes and checksums over bits, each as its definition says."""

from __future__ import annotations

from .state import Unsupported


def ones_complement_sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _crc(data: bytes, polynomial: int, start: int) -> int:
    """A reflected CRC, bit by bit."""
    crc = start
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
    return crc


def compute(algorithm: str, data: bytes) -> int:
    match algorithm:
        case "crc16":
            return _crc(data, 0xA001, 0)
        case "crc32":
            return _crc(data, 0xEDB88320, 0xFFFFFFFF) ^ 0xFFFFFFFF
        case "csum16" | "cksum16":
            return ~ones_complement_sum(data) & 0xFFFF
        case "xor16":
            data += bytes(len(data) % 2)
            result = 0
            for i in range(0, len(data), 2):
                result ^= int.from_bytes(data[i : i + 2], "big")
            return result
        case "identity":
            return int.from_bytes(data[:8], "big")
    raise Unsupported(f"the algorithm {algorithm}")
