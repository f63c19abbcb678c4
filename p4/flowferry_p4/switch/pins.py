# SPDX-License-Identifier: Apache-2.0
"""The directory of `--pin`: what makes a switch survive its process.

    lock            held by the switch that runs on it
    state           which pipelines there are, on which ports; replaced as a whole
    packet_ins      how many packets from the program user space has taken
    maps/           a bpffs
    maps/links/N    the program's place on port N
    maps/G/         the program and the maps of pipeline G
    G/config        its configuration, as P4Runtime has it
    G/code          the hash of its code
    G/notes         what its maps do not hold: see notebook.py

Maps and notes of a pipeline are complete before `state` names it, and are removed after it does not
any more. So whatever `state` does not name is left over from a process that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import bpffs
from .errors import PinError

FORMAT = 1
"""Of all that is in the directory, and of the maps' contents beyond what the code tells."""


@dataclass(frozen=True)
class Identity:
    """What a pinned switch cannot change."""

    device: int
    cpu_port: int
    namespace: int
    """The inode of its network namespace."""

    @classmethod
    def here(cls, device: int, cpu_port: int) -> Identity:
        return cls(device, cpu_port, Path("/proc/self/ns/net").stat().st_ino)


@dataclass(frozen=True)
class State:
    """The contents of the file `state`."""

    identity: Identity
    boot: str
    running: int = 0
    """The pipeline on the ports; 0: none."""
    saved: int = 0
    """The one that is saved and not committed."""
    ports: list[str] = field(default_factory=list)
    """NUMBER@INTERFACE of each."""
    asked_ports: list[str] = field(default_factory=list)
    """The ports of the command line, before others were added and removed."""
    asked_program: str = ""
    """The hash of the program of the command line."""
    own_qdiscs: list[str] = field(default_factory=list)
    """Interfaces that had no clsact before the switch."""


class Pins:
    """The directory, held by this process."""

    def __init__(self, directory: Path, identity: Identity) -> None:
        self.directory = directory
        self._identity = identity
        self._lock = _lock(directory)
        try:
            found = _read(directory)
            if found and found.boot != _boot():
                found = None  # its maps went with the kernel
                _remove_files(directory)
            if found:
                _check(found, identity, directory)
            self.maps = directory / "maps"
            self.maps.mkdir(exist_ok=True)
            bpffs.mount(self.maps)
            if found and not self._is_there(found):
                raise PinError(
                    f"{directory} is of a pinned switch, and its maps are not in {self.maps}: they "
                    "were unmounted, or mounted in another mount namespace; "
                    f"--unpin {directory} removes the rest"
                )
            self.links.mkdir(exist_ok=True)
        except BaseException:
            os.close(self._lock)
            raise
        self._writing = threading.Lock()
        self.resumes = found is not None
        """A process before this one has left something."""
        self.state = found or State(identity, _boot())

    def _is_there(self, found: State) -> bool:
        named = [number for number in (found.running, found.saved) if number]
        return all((self.maps / str(number)).is_dir() for number in named)

    @property
    def links(self) -> Path:
        return self.maps / "links"

    def link(self, port: int) -> Path:
        return self.links / str(port)

    # pipelines
    def new_pipeline(self) -> int:
        """Directories for another pipeline, by a number."""
        taken = [int(p.name) for p in self.directory.iterdir() if p.name.isdigit()]
        number = max(taken, default=0) + 1
        self.files(number).mkdir()
        (self.maps / str(number)).mkdir()
        return number

    def files(self, number: int) -> Path:
        return self.directory / str(number)

    def maps_of(self, number: int) -> Path:
        return self.maps / str(number)

    def name_pipelines(self, running: int, saved: int) -> None:
        """Say which there are; others are removed."""
        self._change(running=running, saved=saved)
        self.tidy()

    def tidy(self) -> None:
        """Remove pipelines that `state` does not name."""
        named = {str(self.state.running), str(self.state.saved)}
        for parent in (self.maps, self.directory):
            for path in parent.iterdir():
                if path.name.isdigit() and path.name not in named:
                    shutil.rmtree(path)

    # ports
    def ports(self, asked: Sequence[str]) -> list[str]:
        """Ports to begin with: those there were, changed as the command line has changed."""
        gone = set(self.state.asked_ports) - set(asked)
        added = [port for port in asked if port not in self.state.asked_ports]
        kept = [p for p in self.state.ports if p not in gone and not _meets(p, added)]
        return list(dict.fromkeys([*kept, *added])) if self.resumes else list(asked)

    def name_ports(self, ports: Iterable[str], own_qdiscs: Iterable[str]) -> None:
        """Say which there are, and which interfaces had no clsact before."""
        self._change(ports=list(ports), own_qdiscs=list(own_qdiscs))

    def name_asked(self, ports: Iterable[str], program: str) -> None:
        """Say what the command line asked for."""
        self._change(asked_ports=list(ports), asked_program=program)

    def _change(self, **changes: Any) -> None:
        """Replace the file `state`, unless it says all that already."""
        with self._writing:
            state = replace(self.state, **changes)
            if state == self.state and (self.directory / "state").exists():
                return
            new = self.directory / "state.new"
            new.write_text(json.dumps({"format": FORMAT, **asdict(state)}, indent=1) + "\n")
            new.replace(self.directory / "state")
            self.state = state

    def close(self) -> None:
        os.close(self._lock)


def _meets(port: str, others: Iterable[str]) -> bool:
    """Whether another port has the same number or the same interface."""
    number, _, interface = port.partition("@")
    return any(number == o.partition("@")[0] or interface == o.partition("@")[2] for o in others)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PinError(
            f"cannot write in {directory}: {error.strerror}; it has to be a directory of an "
            "ordinary file system, in which the switch mounts a bpffs"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise PinError(f"another switch runs on {directory}") from None
    return fd


def _read(directory: Path) -> State | None:
    try:
        content = json.loads((directory / "state").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PinError(f"{directory / 'state'} is not what a switch wrote: {error}") from error
    if content.pop("format", None) != FORMAT:
        raise PinError(
            f"{directory} is of another version of the switch, and its program forwards on; start "
            f"that version, or remove it all with --unpin {directory}"
        )
    return State(Identity(**content.pop("identity")), **content)


def _check(found: State, identity: Identity, directory: Path) -> None:
    pairs = (
        ("device", found.identity.device, identity.device),
        ("CPU port", found.identity.cpu_port, identity.cpu_port),
        ("network namespace", found.identity.namespace, identity.namespace),
    )
    for what, then, now in pairs:
        if then != now:
            raise PinError(
                f"{directory} is of a switch with {what} {then}, and this one has {now}; give each "
                f"a directory of its own, or remove what is there with --unpin {directory}"
            )


def _remove_files(directory: Path) -> None:
    """Everything but the lock."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def unpin(directory: Path) -> State | None:
    """Remove a pinned switch: its program leaves the ports. What `state` said of it."""
    if not directory.is_dir():
        raise PinError(f"there is no directory {directory}")
    lock = _lock(directory)
    try:
        try:
            found = _read(directory)
        except PinError:  # of another version; its links and maps are where they always are
            found = None
        maps = directory / "maps"
        if bpffs.is_mounted(maps):
            for path in maps.iterdir():
                if path.is_dir():  # the kernel has files of its own there
                    shutil.rmtree(path)
            bpffs.unmount(maps)
        _remove_files(directory)
        (directory / "lock").unlink()
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:  # a volume of a container, which that cannot remove
                raise
    finally:
        os.close(lock)
    return found
