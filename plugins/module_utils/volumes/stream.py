# SPDX-License-Identifier: Apache-2.0
"""What is said on the stream of volumes, from one node to the other.

The destination begins with what it has already. Then the source makes passes: each is a list of
steps (difference.py), one JSON object with data behind it where it says so, and ends with "end",
which the destination answers when all of it is done. TLS guards it against damage on the way.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import FlowferryError
from ..transfer import JsonLines
from .difference import Known
from .tree import Entry

LONGEST_LINE = 8 << 20
"""A line holds one entry, with its extended attributes and digests at most."""
DIGESTS_IN_A_LINE = 1 << 20


def next_line(lines: JsonLines) -> dict[str, Any]:
    """The next message; a stream that ends here is an error."""
    message = lines.receive(LONGEST_LINE)
    if not isinstance(message, dict):
        raise FlowferryError("transfer_failed", "the stream of volumes ended early")
    return message


def send_inventory(lines: JsonLines, trees: Sequence[dict[str, Known]]) -> None:
    """What the destination has of each volume."""
    for number, known in enumerate(trees):
        for one in known.values():
            lines.send({"volume": number, "entry": one.entry.as_dict()})
            for at in range(0, len(one.digests), DIGESTS_IN_A_LINE):
                part = one.digests[at : at + DIGESTS_IN_A_LINE]
                lines.send({"digests": base64.b64encode(part).decode()})
    lines.send({"ready": True})


def receive_inventory(lines: JsonLines, count: int) -> list[dict[str, Known]]:
    """The same, at the source: nothing of it is proven, and it names no inode of this node."""
    trees: list[dict[str, Known]] = [{} for _ in range(count)]
    last = Known(Entry("", "", 0, 0, 0, 0))
    while not (message := next_line(lines)).get("ready"):
        if "error" in message:
            raise FlowferryError("transfer_failed", str(message["error"]))
        if "digests" in message:
            last.digests += base64.b64decode(message["digests"])
            continue
        entry = replace(Entry(**message["entry"]), inode=0, ctime_ns=0)
        last = Known(entry)
        trees[message["volume"]][entry.path] = last
    return trees
