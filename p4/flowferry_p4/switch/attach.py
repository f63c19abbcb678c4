# SPDX-License-Identifier: Apache-2.0
"""A program at the ingress of an interface: by tcx link, or by clsact filter on older kernels.

A tcx link ends with the process, however it ends, unless it is pinned. A clsact filter does not, so
a new switch replaces whatever filter an earlier one left in the same place.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from . import libbpf

INGRESS = 0xFFFFFFF2
HANDLE = 1
PRIORITY = 1


class Attachment:
    """The switch's program on one interface."""

    def __init__(self, ifindex: int, program_fd: int, pin: Path | None = None) -> None:
        self.ifindex = ifindex
        self.own_qdisc = False
        self._pin = pin
        self._link = _pinned_link(pin, ifindex) if pin else None
        if self._link is not None:
            self.replace(program_fd)
            return
        try:
            self._link = libbpf.create_link(program_fd, ifindex, libbpf.TCX_INGRESS)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self.own_qdisc = _add_clsact(ifindex)
            _put_filter(ifindex, program_fd)
            return
        if pin:
            libbpf.pin(self._link, pin)

    @property
    def kind(self) -> str:
        return "clsact" if self._link is None else "tcx"

    def replace(self, program_fd: int) -> None:
        """Switch over to another program; no packet passes without one."""
        if self._link is None:
            _put_filter(self.ifindex, program_fd)
        else:
            libbpf.update_link(self._link, program_fd)

    def detach(self) -> None:
        if self._link is None:
            remove_filter(self.ifindex, self.own_qdisc)
            return
        if self._pin:
            self._pin.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Let the program go on by itself, where it is pinned."""
        if self._link is not None:
            os.close(self._link)
            self._link = None


def has_program(ifindex: int) -> bool:
    """Whether a switch's program is on an interface, by tcx."""
    return "flowferry" in libbpf.programs_on(ifindex, libbpf.TCX_INGRESS)


def _pinned_link(pin: Path, ifindex: int) -> int | None:
    """The link that a process before this one left, if it is on this interface."""
    try:
        link = libbpf.get_pinned(pin)
    except FileNotFoundError:
        return None
    if libbpf.link_ifindex(link) == ifindex:
        return link
    os.close(link)
    pin.unlink()
    return None


def remove_filter(ifindex: int, own_qdisc: bool) -> None:
    """Undo what was done where there is no tcx."""
    with contextlib.suppress(NetlinkError), IPRoute() as ipr:  # gone with its interface
        if own_qdisc:
            ipr.tc("del", "clsact", ifindex)
        else:
            ipr.tc("del-filter", "bpf", ifindex, HANDLE, parent=INGRESS, prio=PRIORITY)


def _add_clsact(ifindex: int) -> bool:
    """Make room for filters; True where nobody had before."""
    with IPRoute() as ipr:
        try:
            ipr.tc("add", "clsact", ifindex)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            return False
    return True


def _put_filter(ifindex: int, program_fd: int) -> None:
    with IPRoute() as ipr:
        ipr.tc(
            "replace-filter",
            "bpf",
            ifindex,
            HANDLE,
            fd=program_fd,
            name="flowferry",
            parent=INGRESS,
            prio=PRIORITY,
            direct_action=True,
        )
