# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come: they are read or refused with an error of ours, and nothing is written."""

from __future__ import annotations

import io
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.addresses import (
    rewrite_addresses,
    rewritten,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    Checkpoint,
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.describe import describe
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.sockets import (
    address_of,
    words_of,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tar import open_tar
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tree import tree
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.verify import verify
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("pycriu")

DATA = Path(__file__).with_name("data")
CODES = {"bad_image", "bad_archive", "no_checkpoint", "network_in_checkpoint"}
MOVE = {"192.0.2.1": "198.51.100.7", "2001:db8::1": "2001:db8:ffff::7"}

# An example takes a millisecond or a hundred, as the machine is busy: no deadline.
fuzzed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _images(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in sorted(path.iterdir())}


def _container() -> dict[str, bytes]:
    with tarfile.open(DATA / "podman.tar.gz") as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: data.read() for name, data in members if data is not None}


SOCKETS = _images(DATA / "sockets")
CONTAINER = _container()
PLAIN = io.BytesIO()
with tarfile.open(fileobj=PLAIN, mode="w") as _archive:
    for _name, _data in CONTAINER.items():
        _member = tarfile.TarInfo(_name)
        _member.size = len(_data)
        _archive.addfile(_member, io.BytesIO(_data))


Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Cut, overwrite, double or insert, anywhere."""
    at = draw(st.floats(0, 1))
    kind = draw(st.sampled_from(["cut", "overwrite", "insert", "length", "double"]))
    noise = draw(st.binary(min_size=1, max_size=8))
    length = struct.pack("<i", draw(st.integers(-(2**31), 2**31 - 1)))

    def apply(data: bytes) -> bytes:
        place = int(at * len(data))
        head, tail = data[:place], data[place:]
        return {
            "cut": head,
            "overwrite": head + noise + tail[len(noise) :],
            "insert": head + noise + tail,
            "length": head + length + tail[4:],
            "double": head + data,
        }[kind]

    return apply


def tolerated(action: Callable[[], object]) -> None:
    """The action works, or refuses with a code of ours."""
    try:
        action()
    except FlowferryError as error:
        assert error.code in CODES, error


def examine(checkpoint: Checkpoint) -> None:
    verify(checkpoint)
    assert all(line.isprintable() for line in tree(describe(checkpoint)))


@fuzzed
@given(name=st.sampled_from(sorted(SOCKETS)), changes=st.lists(damages(), min_size=1, max_size=3))
def test_damaged_images_of_criu(name: str, changes: list[Damage]) -> None:
    data = SOCKETS[name]
    for change in changes:
        data = change(data)
    damaged = {**SOCKETS, name: data}
    sizes = {image: len(content) for image, content in damaged.items()}
    tolerated(lambda: examine(Checkpoint(Path("/fuzz"), sizes, damaged)))


@fuzzed
@given(name=st.sampled_from(sorted(CONTAINER)), changes=st.lists(damages(), min_size=1, max_size=3))
def test_damaged_files_of_podman(name: str, changes: list[Damage]) -> None:
    data = CONTAINER[name]
    for change in changes:
        data = change(data)
    damaged = {**CONTAINER, name: data}
    sizes = {image: len(content) for image, content in damaged.items()}
    tolerated(lambda: examine(Checkpoint(Path("/fuzz"), sizes, damaged)))


@fuzzed
@given(data=st.binary(max_size=200) | damages().map(lambda change: change(SOCKETS["files.img"])))
def test_rewriting_damaged_sockets(data: bytes) -> None:
    tolerated(lambda: rewritten(data, MOVE, "fuzz"))


@fuzzed
@given(changes=st.lists(damages(), min_size=1, max_size=3))
def test_damaged_archives(changes: list[Damage]) -> None:
    data = PLAIN.getvalue()
    for change in changes:
        data = change(data)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "archive.tar"
        path.write_bytes(data)
        tolerated(lambda: examine(read_checkpoint(path, 1 << 24)))
        assert [found.name for found in Path(directory).iterdir()] == ["archive.tar"]


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A block of a tar archive with a true checksum and anything in its fields."""
    member = tarfile.TarInfo(draw(st.text(max_size=40) | st.sampled_from(["../x", "/x", ".", "a"])))
    member.size = draw(st.integers(-(2**40), 2**62) | st.integers(0, 2000))
    member.type = draw(
        st.binary(min_size=1, max_size=1) | st.sampled_from([b"0", b"5", b"x", b"L"])
    )
    member.linkname = draw(st.text(max_size=20))
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@fuzzed
@given(parts=st.lists(headers() | st.binary(min_size=512, max_size=512), max_size=6))
def test_archives_of_anything(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "archive.tar"
        path.write_bytes(b"".join(parts) + bytes(1024))

        def names() -> list[str]:
            with open_tar(path, 1 << 20) as members:
                return [member.name for member, data in members if b"".join(data) is not None]

        def safe_names() -> None:
            for name in names():
                assert not name.startswith("/") and ".." not in name.split("/")

        tolerated(safe_names)


words = st.integers(0, 2**32 - 1)


@given(st.lists(words, min_size=1, max_size=1) | st.lists(words, min_size=4, max_size=4))
def test_an_address_is_the_same_after_both_conversions(numbers: list[int]) -> None:
    assert words_of(address_of(numbers)) == numbers


ipv4, ipv6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)


@fuzzed
@given(addresses=st.dictionaries(ipv4 | ipv6, ipv4 | ipv6, max_size=3))
def test_any_addresses_twice(addresses: dict[str, str]) -> None:
    """Whatever pairs are given: refused, or a second run changes nothing."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "files.img"
        path.write_bytes(SOCKETS["files.img"])
        try:
            rewrite_addresses(Path(directory), {"192.0.2.1": "198.51.100.7", **addresses})
        except FlowferryError as error:
            assert error.code == "bad_address"
            assert path.read_bytes() == SOCKETS["files.img"]
        else:
            assert rewrite_addresses(Path(directory), addresses) == []
