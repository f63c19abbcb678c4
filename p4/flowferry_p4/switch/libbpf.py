# SPDX-License-Identifier: Apache-2.0
"""The few functions of libbpf 1.x that the switch needs, through ctypes.

Of libbpf only what has been in it since 1.0 is used, so Debian 12 (1.1) and 13 (1.5) behave alike:
tcx links, which 1.1 does not know, go through the generic bpf_link_create.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from .errors import CompileFailed, ToolMissing

TCX_INGRESS = 46
ANY, NOEXIST, EXIST = 0, 1, 2

_LOG_SIZE = 1 << 22


_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""Takes a record of a ring buffer: context, data, size."""


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_void_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise ToolMissing(
            "libbpf.so.1 is not on this host; the switch loads its programs with it "
            "(Debian, Ubuntu: apt-get install libbpf1)"
        ) from None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    u32, u64 = ctypes.c_uint32, ctypes.c_uint64
    for name, result, arguments in (
        ("bpf_object__open_mem", pointer, (text, ctypes.c_size_t, pointer)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__find_map_fd_by_name", number, (pointer, text)),
        ("bpf_object__find_program_by_name", pointer, (pointer, text)),
        ("bpf_program__fd", number, (pointer,)),
        ("bpf_map_update_elem", number, (number, pointer, pointer, u64)),
        ("bpf_map_lookup_elem", number, (number, pointer, pointer)),
        ("bpf_map_delete_elem", number, (number, pointer)),
        ("bpf_map_get_next_key", number, (number, pointer, pointer)),
        ("bpf_map_update_batch", number, (number, pointer, pointer, pointer, pointer)),
        ("bpf_link_create", number, (number, number, u32, pointer)),
        ("bpf_link_update", number, (number, number, pointer)),
        ("bpf_obj_pin", number, (number, text)),
        ("bpf_obj_get", number, (text,)),
        ("bpf_obj_get_info_by_fd", number, (number, pointer, pointer)),
        ("bpf_object__pin_maps", number, (pointer, text)),
        ("bpf_prog_query", number, (number, u32, u32, pointer, pointer, pointer)),
        ("bpf_prog_get_fd_by_id", number, (u32,)),
        ("ring_buffer__new", pointer, (number, _SAMPLE, pointer, pointer)),
        ("ring_buffer__poll", number, (pointer, number)),
        ("ring_buffer__free", None, (pointer,)),
        ("libbpf_num_possible_cpus", number, ()),
        ("libbpf_set_print", pointer, (pointer,)),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    library.libbpf_set_print(None)  # errors are reported through exceptions, with the log
    return library


def check() -> None:
    """Raise ToolMissing when libbpf is not there."""
    _library()


def _fail(code: int) -> OSError:
    return OSError(-code, os.strerror(-code))


class Map:
    """A BPF map, by its file descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        code = _library().bpf_map_update_elem(self.fd, key, value, flags)
        if code:
            raise _fail(code)

    def update_many(self, first: int, values: Sequence[bytes]) -> None:
        """Write neighbouring elements of an array with one system call."""
        if not values:
            return
        count = ctypes.c_uint32(len(values))
        keys = struct.pack(f"={len(values)}I", *range(first, first + len(values)))
        code = _library().bpf_map_update_batch(
            self.fd, keys, b"".join(values), ctypes.byref(count), None
        )
        if code:
            raise _fail(code)

    def lookup(self, key: bytes, size: int) -> bytes:
        value = ctypes.create_string_buffer(size)
        code = _library().bpf_map_lookup_elem(self.fd, key, value)
        if code:
            raise _fail(code)
        return value.raw

    def delete(self, key: bytes) -> None:
        code = _library().bpf_map_delete_elem(self.fd, key)
        if code:
            raise _fail(code)

    def items(self, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
        """What is in it, as long as nobody else changes it."""
        last: ctypes.Array[ctypes.c_char] | None = None
        while True:
            key = ctypes.create_string_buffer(key_size)
            code = _library().bpf_map_get_next_key(self.fd, last, key)
            if code == -errno.ENOENT:
                return
            if code:
                raise _fail(code)
            yield key.raw, self.lookup(key.raw, value_size)
            last = key


class Maps(Protocol):
    """A program in the kernel and its maps, just loaded or found pinned."""

    program_fd: int

    def map(self, name: str) -> Map: ...

    def pin(self, directory: Path) -> None: ...

    def close(self) -> None: ...


_PROGRAM = "program"
"""What the program is pinned as; no map has this name."""


class Object:
    """A loaded BPF object: its program and its maps live until close()."""

    def __init__(self, image: bytes, program: str) -> None:
        library = _library()
        log = ctypes.create_string_buffer(_LOG_SIZE)
        options = _OpenOptions(
            sz=ctypes.sizeof(_OpenOptions),
            object_name=b"flowferry",
            kernel_log_buf=ctypes.addressof(log),
            kernel_log_size=_LOG_SIZE,
        )
        handle = library.bpf_object__open_mem(image, len(image), ctypes.byref(options))
        if not handle:
            error = ctypes.get_errno()
            raise CompileFailed(f"libbpf cannot read the compiled program: {os.strerror(error)}")
        self._handle: int | None = handle
        code = library.bpf_object__load(handle)
        if code:
            self.close()
            raise CompileFailed(_load_failure(code, log.value))
        self.program_fd: int = library.bpf_program__fd(
            library.bpf_object__find_program_by_name(handle, program.encode())
        )

    def map(self, name: str) -> Map:
        fd = _library().bpf_object__find_map_fd_by_name(self._handle, name.encode())
        if fd < 0:
            raise CompileFailed(f"the compiled program has no map {name}")
        return Map(fd, name)

    def pin(self, directory: Path) -> None:
        """Let them live on by names in a directory of a bpffs, until those are removed."""
        code = _library().bpf_object__pin_maps(self._handle, os.fsencode(directory))
        if code:
            raise _fail(code)
        pin(self.program_fd, directory / _PROGRAM)

    def close(self) -> None:
        if self._handle is not None:
            _library().bpf_object__close(self._handle)
            self._handle = None


class PinnedObject:
    """A program and its maps that a process before this one has pinned."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._maps: dict[str, Map] = {}
        self.program_fd = get_pinned(directory / _PROGRAM)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map(get_pinned(self._directory / name), name)
        return self._maps[name]

    def pin(self, directory: Path) -> None:
        """It is pinned."""

    def close(self) -> None:
        for opened in self._maps.values():
            os.close(opened.fd)
        self._maps.clear()
        os.close(self.program_fd)


def _load_failure(code: int, log: bytes) -> str:
    reason = os.strerror(-code)
    hint = " (loading BPF programs needs root)" if -code == 1 else ""
    tail = "\n".join(log.decode(errors="replace").strip().splitlines()[-25:])
    return f"the kernel does not load the program: {reason}{hint}" + (f"\n{tail}" if tail else "")


class RingBuffer:
    """Records that a program sends; poll() hands them over."""

    def __init__(self, records: Map, receive: Callable[[bytes], None]) -> None:
        def take(_: object, data: int, size: int) -> int:
            receive(ctypes.string_at(data, size))
            return 0

        self._take = _SAMPLE(take)  # libbpf holds no reference
        self._handle = _library().ring_buffer__new(records.fd, self._take, None, None)
        if not self._handle:
            raise CompileFailed(f"no ring buffer: {os.strerror(ctypes.get_errno())}")

    def poll(self, milliseconds: int) -> None:
        """Hand over what has arrived, waiting for something that long at most."""
        _library().ring_buffer__poll(self._handle, milliseconds)

    def close(self) -> None:
        _library().ring_buffer__free(self._handle)


def create_link(program_fd: int, ifindex: int, attach_type: int) -> int:
    """Attach a program; the attachment ends with the returned file descriptor."""
    fd = int(_library().bpf_link_create(program_fd, ifindex, attach_type, None))
    if fd < 0:
        raise _fail(fd)
    return fd


def update_link(link_fd: int, program_fd: int) -> None:
    """Put another program in the place of a link's."""
    code = _library().bpf_link_update(link_fd, program_fd, None)
    if code:
        raise _fail(code)


def pin(fd: int, path: Path) -> None:
    """Keep a program, map or link beyond this process, by a name in a bpffs."""
    code = _library().bpf_obj_pin(fd, os.fsencode(path))
    if code:
        raise _fail(code)


def get_pinned(path: Path) -> int:
    """A file descriptor of what is pinned there."""
    fd = int(_library().bpf_obj_get(os.fsencode(path)))
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), str(path))
    return fd


def _info(fd: int, size: int) -> bytes:
    info, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    code = _library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length))
    if code:
        raise _fail(code)
    return info.raw


def link_ifindex(link_fd: int) -> int:
    """The interface that a tcx link is on; 0 where that is gone."""
    (ifindex,) = struct.unpack_from("=I", _info(link_fd, 24), 16)
    return int(ifindex)


def programs_on(ifindex: int, attach_type: int) -> list[str]:
    """Names of the programs on an interface's tcx; none where the kernel has no tcx."""
    ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    code = _library().bpf_prog_query(ifindex, attach_type, 0, None, ids, ctypes.byref(count))
    if code:
        return []
    return [name for number in ids[: count.value] if (name := _program_name(number))]


def _program_name(number: int) -> str:
    fd = int(_library().bpf_prog_get_fd_by_id(number))
    if fd < 0:  # gone meanwhile
        return ""
    try:
        return _info(fd, 80)[64:80].rstrip(b"\0").decode()
    finally:
        os.close(fd)


@cache
def possible_cpus() -> int:
    return int(_library().libbpf_num_possible_cpus())
