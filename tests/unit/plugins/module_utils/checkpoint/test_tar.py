# SPDX-License-Identifier: Apache-2.0
"""Archives from outside are read within bounds, and refused with the member and the reason."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.compression import (
    packed,
    unpacked,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tar import open_tar
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

LIMIT = 1 << 20


def contents(path: Path, limit: int = LIMIT) -> dict[str, bytes]:
    with open_tar(path, limit) as members:
        return {member.name: b"".join(data) for member, data in members if not member.is_directory}


def refused(path: Path, *reasons: str, limit: int = LIMIT) -> None:
    with pytest.raises(FlowferryError) as caught:
        contents(path, limit)
    assert caught.value.code == "bad_archive"
    for reason in (str(path), *reasons):
        assert reason in str(caught.value)


def make(path: Path, *members: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            data = b"x" * member.size
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "some.tar"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_found_in_each_format(archive: Path, form: int) -> None:
    long = "deep/" * 24 + "name" if form != tarfile.USTAR_FORMAT else "short"
    make(
        archive,
        entry("./checkpoint/", tarfile.DIRTYPE),
        entry("./checkpoint/a.img", size=512),
        entry(long, size=5),
        entry("grün", size=1) if form == tarfile.PAX_FORMAT else entry("green", size=1),
        form=form,
    )
    found = contents(archive)
    assert found["checkpoint/a.img"] == b"x" * 512
    assert found[long] == b"xxxxx"
    assert len(found) == 3


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_however_it_is_packed(archive: Path, compression: str) -> None:
    make(archive, entry("one", size=700_000), entry("two", size=3))
    again = archive.with_name("packed")
    with packed(again, compression) as target:
        target.write(archive.read_bytes())
    assert contents(again) == {"one": b"x" * 700_000, "two": b"xxx"}
    with open_tar(again, LIMIT) as members:  # without reading the content
        assert [(member.name, member.size) for member, _ in members] == [
            ("one", 700_000),
            ("two", 3),
        ]


@pytest.mark.parametrize("length", [0, 1, 131_071, 131_072, 131_073, 1_000_000, 5_000_000])
def test_zstd_of_any_length(tmp_path: Path, length: int) -> None:
    """Around the sizes of buffers, of data that packs well and badly, as its program packs it."""
    for content in (bytes(length), random.Random(length).randbytes(length)):
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        ours.unlink(missing_ok=True)
        with packed(ours, "zstd") as target:
            target.write(content)
        theirs.write_bytes(_zstd(content))
        assert _zstd(ours.read_bytes(), "--decompress") == content
        for path in (ours, theirs):
            with unpacked(path) as stream:
                assert b"".join(iter(lambda: stream.read(70_000), b"")) == content


def _zstd(data: bytes, *options: str) -> bytes:
    command = ["zstd", "--stdout", "--quiet", *options]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_truncated(archive: Path, compression: str) -> None:
    make(archive, entry("one", size=300_000), entry("two", size=300_000))
    again = archive.with_name("packed")
    with packed(again, compression) as target:
        target.write(archive.read_bytes())
    whole = again.read_bytes()
    for part in (2, 3, 10):
        again.write_bytes(whole[: len(whole) * (part - 1) // part])
        refused(again)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (entry("../../etc/passwd"), "'../../etc/passwd' leads out of the archive"),
        (entry("checkpoint/../../x"), "'checkpoint/../../x' leads out of the archive"),
        (entry("/etc/passwd"), "'/etc/passwd' has an absolute path"),
        (entry("x", tarfile.SYMTYPE, target="/etc"), "'x' is a symbolic link to '/etc'"),
        (entry("x", tarfile.LNKTYPE, target="../y"), "'x' is a hard link to '../y'"),
        (entry("dev/sda", tarfile.BLKTYPE), "'dev/sda' is a block device"),
        (entry("dev/mem", tarfile.CHRTYPE), "'dev/mem' is a character device"),
        (entry("pipe", tarfile.FIFOTYPE), "'pipe' is a named pipe"),
        (entry("holes", tarfile.GNUTYPE_SPARSE), "'holes' is a sparse file"),
        (entry("odd", b"Z"), "'odd' is of type b'Z'"),
        (entry("."), "'.' is a file without a name"),
        (entry("a\nb"), "has a name that cannot be shown"),
        (entry("n" * 300), "has too long a name"),
        (entry("a/" * 3000), "has too long a name"),
    ],
)
def test_members_that_no_checkpoint_has(
    archive: Path, member: tarfile.TarInfo, reason: str
) -> None:
    refused(make(archive, entry("first", size=3), member), reason)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (entry("a", size=1), entry("./a", size=1), "'./a' is there twice"),
        (entry("a", size=1), entry("a/b", size=1), "'a/b' is in 'a', which is a file"),
        (entry("a/b", size=1), entry("a", size=1), "'a' is there twice"),
    ],
)
def test_members_that_contradict_each_other(
    archive: Path, first: tarfile.TarInfo, second: tarfile.TarInfo, reason: str
) -> None:
    refused(make(archive, first, second), reason)


def block(name: str, kind: bytes, size: int) -> bytes:
    return entry(name, kind, size).tobuf(tarfile.GNU_FORMAT)


def test_a_size_beyond_the_end(archive: Path) -> None:
    archive.write_bytes(block("pages-1.img", tarfile.REGTYPE, 500_000) + b"x" * 1024)
    refused(archive, "member 'pages-1.img': ends after 1024 bytes where 500000 should be")


def test_a_negative_size(archive: Path) -> None:
    archive.write_bytes(block("x", tarfile.REGTYPE, -512) + bytes(1024))
    refused(archive, "'x' has the size '-512'")


def test_an_extended_header_that_would_fill_the_memory(archive: Path) -> None:
    archive.write_bytes(block("x", tarfile.XHDTYPE, 1 << 40))
    refused(archive, f"an extended header of {1 << 40} bytes, the limit is {1 << 20}")


def test_extended_headers_without_end(archive: Path) -> None:
    once = block("x", tarfile.GNUTYPE_LONGNAME, 512) + b"y" * 512
    archive.write_bytes(once * 3000)
    refused(archive, "too many extended headers", limit=1 << 30)


def record(attribute: bytes) -> bytes:
    return b"%d %s\n" % (len(attribute) + 4, attribute)  # its length has two digits


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (record(b"GNU.sparse.realsize=1000000"), "has a sparse file"),
        (record(b"path=../x"), "'../x' leads out of the archive"),
        (record(b"size=-9999"), "'x' has the size '-9999'"),
        (record(b"path=\xff"), "not UTF-8"),
        (b"99 path=x\n", "damaged extended header"),
        (b"1 path=x\n", "damaged extended header"),
        (b"path=x\n", "damaged extended header"),
        (b"9 path=xx", "damaged extended header"),
    ],
)
def test_damaged_or_lying_extended_headers(archive: Path, records: bytes, reason: str) -> None:
    content = block("x", tarfile.XHDTYPE, len(records)) + records.ljust(512, b"\0")
    archive.write_bytes(content + block("x", tarfile.REGTYPE, 0) + bytes(1024))
    refused(archive, reason)


def test_a_damaged_header(archive: Path) -> None:
    make(archive, entry("first", size=3))
    damaged = bytearray(archive.read_bytes())
    damaged[3] ^= 1
    archive.write_bytes(damaged)
    refused(archive, "has a damaged header (bad checksum)")


def test_something_behind_the_end(archive: Path) -> None:
    make(archive, entry("first", size=3))
    with archive.open("ab") as file:
        file.write(block("second", tarfile.REGTYPE, 0) + bytes(1024))
    refused(archive, "has data behind its end")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("place", ["member", "end"])
def test_a_compression_bomb(archive: Path, compression: str, place: str) -> None:
    """64 MiB of zeros in a few kilobytes, as a member and behind the end."""
    with packed(archive, compression) as target:
        target.write(block("x", tarfile.REGTYPE, 64 << 20) if place == "member" else bytes(512))
        for _ in range(64):
            target.write(bytes(1 << 20))
    assert archive.stat().st_size < 100_000
    refused(archive, "unpacks to more than 1048576 bytes, which is the limit (max_size)")


def test_damaged_compression(archive: Path) -> None:
    whole = make(archive, entry("x", size=3000)).read_bytes()
    damaged = bytearray(gzip.compress(whole))
    damaged[-6] ^= 1
    archive.write_bytes(damaged)
    refused(archive, "cannot be unpacked (CRC check failed")


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: data[:20] + b"?" * 99])
def test_damaged_zstd(archive: Path, damage: Callable[[bytes], bytes]) -> None:
    with packed(archive, "zstd") as target:
        target.write(bytes(range(256)) * 64)
    archive.write_bytes(damage(archive.read_bytes()))
    refused(archive)


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    refused(tmp_path, "is no regular file")
