# SPDX-License-Identifier: Apache-2.0
"""Packets through a program without any interface: the kernel's BPF_PROG_TEST_RUN.

The program's last statement, the redirect, is replaced by returning the port, so that a test reads
what left and where. Packets arrive on the loopback interface, which is made the wanted port.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from typing import Any

from flowferry_p4.switch import bmv2_json
from flowferry_p4.switch.clang import compile_c
from flowferry_p4.switch.compiler import compile_program
from flowferry_p4.switch.dataplane import Dataplane

_LOOPBACK = 1
_REDIRECT = "bpf_redirect(interface, 0)"
_PORT = 1 << 16
# struct bpf_prog_info, and in it verified_insns (from Linux 5.16 on).
_INFO_SIZE, _VERIFIED = 232, 216


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class TestRun:
    """A loaded program that packets can be put through."""

    __test__ = False  # not a test class, whatever its name

    def __init__(self, document: dict[str, Any], ports: int = 32) -> None:
        compiled = compile_program(bmv2_json.load(json.dumps(document)), 510)
        source = compiled.source.replace(_REDIRECT, f"({_PORT} + p->standard_metadata.egress_port)")
        assert source != compiled.source
        self.dataplane = Dataplane.load(type(compiled)(
            compiled.program, source, compiled.tables, compiled.counters
        ), compile_c(source))  # fmt: skip
        self._library = ctypes.CDLL("libbpf.so.1")
        for port in range(ports):
            self.dataplane.set_ports({port: _LOOPBACK})

    def __call__(self, packet: bytes, port: int = 1) -> tuple[int, bytes] | None:
        """The port and the bytes a packet leaves with; None where it is dropped."""
        self.dataplane.set_ports({port: _LOOPBACK})
        self.dataplane.publish()
        data = ctypes.create_string_buffer(packet, len(packet))
        out = ctypes.create_string_buffer(1 << 14)
        options = _Options(
            sz=ctypes.sizeof(_Options),
            data_in=ctypes.addressof(data),
            data_out=ctypes.addressof(out),
            data_size_in=len(packet),
            data_size_out=len(out),
            repeat=1,
        )
        code = self._library.bpf_prog_test_run_opts(
            self.dataplane.program_fd, ctypes.byref(options)
        )
        if code:
            raise OSError(-code, os.strerror(-code))
        if options.retval < _PORT:
            return None
        return options.retval - _PORT, out.raw[: options.data_size_out]

    def verified(self) -> int:
        """Instructions that the kernel's verifier has followed, on all paths together."""
        info = (ctypes.c_ubyte * _INFO_SIZE)()
        size = ctypes.c_uint32(_INFO_SIZE)
        code = self._library.bpf_obj_get_info_by_fd(
            self.dataplane.program_fd, info, ctypes.byref(size)
        )
        if code:
            raise OSError(-code, os.strerror(-code))
        (followed,) = struct.unpack_from("=I", info, _VERIFIED)
        return int(followed)

    def only_drop(self) -> str:
        """The one reason for which the target itself dropped packets."""
        (reason,) = (name for name, count in self.dataplane.dropped().items() if count)
        return reason


def big(value: int, size: int) -> bytes:
    return struct.pack(">Q", value)[8 - size :]
