# SPDX-License-Identifier: Apache-2.0
"""What the plugin has made on this node: a file for each interface.

A record is there before its interface is, and goes after it. So whatever an agent that was killed
left behind is found, by its record or by its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flowferry_p4.agent import Attachment

PREFIX = "ffp"
FIRST_PORT, LAST_PORT = 8, 509
"""Ports of pods; those before are the node's own."""

log = logging.getLogger(__name__)


def interface_name(container: str, interface: str) -> str:
    """The node's end of a pod's cable: the same whenever it is asked for."""
    digest = hashlib.sha256(f"{container}/{interface}".encode()).hexdigest()
    return PREFIX + digest[:12]


@dataclass(frozen=True)
class Record:
    network: str
    container: str
    inside: str
    """The interface's name in the container."""
    interface: str
    port: int
    mac: str
    addresses: tuple[str, ...]
    pod: str = ""
    pod_uid: str = ""

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.port, self.mac, self.addresses, self.pod_uid)


class Records:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def all(self) -> list[Record]:
        found = []
        for file in sorted(self.directory.glob("*.json")):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                content["addresses"] = tuple(content["addresses"])
                found.append(Record(**content))
            except FileNotFoundError:
                continue  # it goes at this moment
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s is not a record, and is left alone: %s", file, error)
        return found

    def get(self, interface: str) -> Record | None:
        return next((record for record in self.all() if record.interface == interface), None)

    def put(self, record: Record) -> None:
        """There as a whole or not at all."""
        new = self.directory / f".{record.interface}.new"
        new.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        new.replace(self._file(record.interface))

    def remove(self, interface: str) -> None:
        self._file(interface).unlink(missing_ok=True)

    def free_port(self, taken: Iterable[int]) -> int | None:
        used = {*taken, *(record.port for record in self.all())}
        return next((n for n in range(FIRST_PORT, LAST_PORT + 1) if n not in used), None)

    def _file(self, interface: str) -> Path:
        return self.directory / f"{interface}.json"
