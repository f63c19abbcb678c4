# SPDX-License-Identifier: Apache-2.0
"""What CRIU needs of a node and of processes, checked before anything is touched."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from .commands import run
from .errors import FlowferryError
from .processes import descends

MINIMUM = (4, 2)
# Device nodes that CRIU restores by opening them again.
_PLAIN_DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}


def check_criu() -> str:
    """The version of CRIU; FlowferryError when it is missing or too old for current kernels."""
    if shutil.which("criu") is None:
        raise FlowferryError("criu_missing", "criu is not installed; the role criu installs it")
    version = run(["criu", "--version"]).splitlines()[0].split()[-1]
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise FlowferryError(
            "criu_too_old",
            f"criu is {version}; below 4.2 it cannot dump TCP sockets on kernels from 6.16 on: the "
            "role criu installs a newer one",
        )
    return version


def complaints(log: Path) -> str:
    """The last errors that CRIU logged."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line.split("Error ", 1)[1] for line in lines if "Error " in line]
    return "; ".join(line for line in errors if "RLIMIT_NOFILE" not in line)[-600:]


def check_space(memory_bytes: int, *places: Path | str) -> None:
    """Refuse a destination without room for a workload that uses so much memory."""
    needed = 2 * memory_bytes + (16 << 20)
    for place in places:
        free = shutil.disk_usage(place).free
        if free < needed:
            raise FlowferryError(
                "no_space",
                f"{place} on the destination has {free >> 20} MB free, the checkpoint may need "
                f"{needed >> 20} MB; free some space there",
            )


def check_memory(needed: int) -> None:
    """Refuse a destination on which a workload with so much memory would not fit."""
    known = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = sum(int(known[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))
    if free < needed:
        raise FlowferryError(
            "no_space",
            f"the destination has {free >> 20} MB of memory available, and the copy needs "
            f"{needed >> 20} MB; end something there, or choose another node",
        )


def check_processes(title: str, pids: Iterable[int]) -> None:
    """Refuse processes that CRIU cannot dump, or only with an end that would stay behind."""
    pids = list(pids)
    check_limits(title, pids)
    check_open_files(title, pids)


def check_limits(title: str, pids: Iterable[int]) -> None:
    """Refuse processes whose limits the kernel does not tell, as it would not tell CRIU."""
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_CPU)
        except ProcessLookupError:  # it has ended in the meantime
            continue
        except PermissionError as error:
            raise FlowferryError(
                "other_user",
                f"{title}: process {pid} runs as user {Path(f'/proc/{pid}').stat().st_uid}, and "
                f"the kernel does not tell its limits ({error.strerror}), which CRIU has to know: "
                "root lacks CAP_SYS_RESOURCE on this node; give that to it, or run the program as "
                "root",
            ) from None


def check_open_files(title: str, pids: Iterable[int]) -> None:
    """Refuse what CRIU cannot dump: open devices, and unix sockets connected to the outside.

    ``title`` says whose processes they are. They share one network namespace.
    """
    pids = list(pids)
    inodes: set[str] = set()
    for pid in pids:
        for number in _descriptors(pid):
            target = link(number)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
            elif target.startswith("/"):  # a device node can have any name
                _check_device(title, pid, number, target)
    if pids and inodes:
        _check_unix_sockets(title, pids[0], inodes)
        _check_link_local(title, pids[0])


def _check_device(title: str, pid: int, number: Path, target: str) -> None:
    try:
        info = number.stat()
    except FileNotFoundError:  # closed in the meantime
        return
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        return
    numbers = (os.major(info.st_rdev), os.minor(info.st_rdev))
    if numbers not in _PLAIN_DEVICES and numbers[0] != 136:
        raise FlowferryError(
            "open_device",
            f"{title}: process {pid} has the device {target} open, which CRIU cannot dump; close "
            "it in the application first",
        )


def _check_unix_sockets(title: str, pid: int, inodes: set[str]) -> None:
    # A socket that was accepted belongs to the network namespace of whoever connected.
    listed = run(["ss", "-xanH"])
    listed += run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-xanH"])
    for line in listed.splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[1] != "ESTAB" or fields[5] not in inodes:
            continue
        if fields[7] not in inodes and fields[7] != "0":
            raise FlowferryError(
                "external_socket",
                f"{title}: a unix socket ({fields[4]}, inode {fields[5]}) is connected to a "
                "process outside, which would stay behind; close it first",
            )


def _check_link_local(title: str, pid: int) -> None:
    for line in run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-tunaH6"]).splitlines():
        ends = line.split()[4:6]
        if any(end.lower().startswith("[fe80:") for end in ends):
            raise FlowferryError(
                "link_local",
                f"{title}: a socket ({' to '.join(ends)}) has a link-local IPv6 address, which "
                "means another interface on another node, so CRIU cannot restore it; have the "
                "program use a global address",
            )


def check_pipes(title: str, pids: Iterable[int], known: Iterable[str] = ()) -> None:
    """Refuse pipes whose other end is held by a process outside, such as one that reads a log.

    Those that are ``known`` have another end at the destination.
    """
    pids = set(pids)
    ours = {pipe for pid in pids for pipe in _pipes(pid)} - set(known)
    for entry in Path("/proc").glob("[0-9]*") if ours else []:
        other = int(entry.name)
        shared = ours & _pipes(other) if other not in pids else set()
        if shared and not descends(other, pids):  # one that was born in the meantime
            raise FlowferryError(
                "external_pipe",
                f"{title}: {', '.join(sorted(shared))} leads to process {other} outside, which "
                "would stay behind; have the program write to a file or a socket instead",
            )


def _pipes(pid: int) -> set[str]:
    return {target for target in map(link, _descriptors(pid)) if target.startswith("pipe:[")}


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended in the meantime
        return []


def link(path: Path) -> str:
    """Where a link leads; empty when it is gone."""
    try:
        return str(path.readlink())
    except OSError:
        return ""
