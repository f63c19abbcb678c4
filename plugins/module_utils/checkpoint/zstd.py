# SPDX-License-Identifier: Apache-2.0
"""zstd by the system's library, which dpkg, rpm and Podman itself bring to every node.

Python has it from 3.14 on, and its program is a package that few nodes have.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from ..errors import FlowferryError

_LIBRARY = "libzstd.so.1"
_CHUNK = 1 << 17
_CONTINUE, _END = 0, 2


class ZstdError(Exception):
    """What the library says of data that it does not understand."""


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer, which have the same layout."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("position", ctypes.c_size_t),
    )


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise FlowferryError(
            "zstd_missing",
            f"the archive is packed by zstd, and there is no {_LIBRARY} ({error}); install "
            "libzstd1, or have Podman pack with gzip",
        ) from error
    pointer, buffer = ctypes.c_void_p, ctypes.POINTER(_Buffer)
    for name, result, arguments in (
        ("createDCtx", pointer, []),
        ("freeDCtx", ctypes.c_size_t, [pointer]),
        ("decompressStream", ctypes.c_size_t, [pointer, buffer, buffer]),
        ("createCCtx", pointer, []),
        ("freeCCtx", ctypes.c_size_t, [pointer]),
        ("compressStream2", ctypes.c_size_t, [pointer, buffer, buffer, ctypes.c_int]),
        ("isError", ctypes.c_uint, [ctypes.c_size_t]),
        ("getErrorName", ctypes.c_char_p, [ctypes.c_size_t]),
    ):
        function = getattr(library, f"ZSTD_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _checked(result: int) -> int:
    if _library().ZSTD_isError(result):
        raise ZstdError(_library().ZSTD_getErrorName(result).decode())
    return result


class Reader:
    """Unpacks a file, within the library's limit for memory (windows of 128 MiB)."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._context = _library().ZSTD_createDCtx()
        self._packed = _Buffer()
        self._content = b""  # what self._packed points to
        self._whole = True  # a frame has ended, and none has begun
        self._more_inside = False  # the last output was full: the library may have more

    def close(self) -> None:
        _library().ZSTD_freeDCtx(self._context)

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end; ZstdError when the end comes too early."""
        output = ctypes.create_string_buffer(min(size, _CHUNK))
        target = _Buffer(ctypes.addressof(output), len(output), 0)
        while not target.position:
            consumed = self._packed.position == self._packed.size
            if consumed and not self._more_inside and not self._more():
                break
            result = _library().ZSTD_decompressStream(self._context, target, self._packed)
            self._whole = _checked(result) == 0
            self._more_inside = target.position == target.size and not self._whole
        return output.raw[: target.position]

    def _more(self) -> bool:
        self._content = self._file.read(_CHUNK)
        if not self._content and not self._whole:
            raise ZstdError("it ends too early")
        address = ctypes.cast(ctypes.c_char_p(self._content), ctypes.c_void_p).value
        self._packed = _Buffer(address, len(self._content), 0)
        return bool(self._content)


class Writer:
    """Packs what is written into a file, as one frame."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._context = _library().ZSTD_createCCtx()
        self._output = ctypes.create_string_buffer(_CHUNK)

    def close(self) -> None:
        _library().ZSTD_freeCCtx(self._context)

    def write(self, data: bytes, /) -> int:
        self._pack(data, _CONTINUE)
        return len(data)

    def finish(self) -> None:
        """Write what is still in the library."""
        self._pack(b"", _END)

    def _pack(self, data: bytes, operation: int) -> None:
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        source = _Buffer(address, len(data), 0)
        while True:
            target = _Buffer(ctypes.addressof(self._output), _CHUNK, 0)
            result = _library().ZSTD_compressStream2(self._context, target, source, operation)
            left = _checked(result)
            self._file.write(self._output.raw[: target.position])
            if left == 0 if operation == _END else source.position == source.size:
                return
