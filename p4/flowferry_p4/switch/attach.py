# SPDX-License-Identifier: Apache-2.0
"""A program at the ingress of an interface: by tcx link, or by clsact filter on older kernels.

A tcx link ends with the process, however it ends. A clsact filter does not, so a new switch
replaces whatever filter an earlier one left in the same place.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from . import libbpf

INGRESS = 0xFFFFFFF2
HANDLE = 1
PRIORITY = 1


class Attachment:
    """The switch's program on one interface."""

    def __init__(self, ifindex: int, program_fd: int) -> None:
        self.ifindex = ifindex
        self._link: int | None = None
        self._own_qdisc = False
        try:
            self._link = libbpf.create_link(program_fd, ifindex, libbpf.TCX_INGRESS)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._own_qdisc = _add_clsact(ifindex)
            _put_filter(ifindex, program_fd)

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
        if self._link is not None:
            os.close(self._link)
            self._link = None
            return
        with contextlib.suppress(NetlinkError), IPRoute() as ipr:  # gone with its interface
            if self._own_qdisc:
                ipr.tc("del", "clsact", self.ifindex)
            else:
                ipr.tc("del-filter", "bpf", self.ifindex, HANDLE, parent=INGRESS, prio=PRIORITY)


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
