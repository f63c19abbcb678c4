# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of each kind are read, verified and described; damaged ones are refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint import images
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.contents import (
    Checkpoint,
    read_checkpoint,
)
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.describe import describe
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.tree import tree
from ansible_collections.flowferry.core.plugins.module_utils.checkpoint.verify import verify
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

pytestmark = pytest.mark.usefixtures("pycriu")

DATA = Path(__file__).with_name("data")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The container's checkpoint as a directory that a test may damage."""
    with tarfile.open(DATA / "podman.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    return tmp_path / "unpacked"


def load(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    verify(checkpoint)
    return checkpoint


def refused(path: Path, *reasons: str, code: str = "bad_image") -> None:
    with pytest.raises(FlowferryError) as caught:
        load(path)
    assert caught.value.code == code
    for reason in reasons:
        assert reason in str(caught.value)


# -- what is found


def test_podman_archive() -> None:
    about = describe(load(DATA / "podman.tar.gz"))
    assert about["kind"] == "podman"
    assert about["container"]["name"] == "tiny"
    assert about["container"]["image"] == "localhost/tiny:latest"
    assert about["versions"] == {
        "engine": "podman",
        "engine_version": None,
        "runtime": "runc",
        "runtime_specification": "1.2.0",
        "criu": None,
        "images": 2,
        "kernel": None,
        "architecture": "x86_64",
    }
    (process,) = about["processes"]
    assert (process["pid"], process["parent"], process["threads"]) == (1, 0, 1)
    assert (process["command"], process["executable"]) == ("catatonit", "/catatonit")
    assert process["descriptors"] == 4
    root = next(mount for mount in about["mounts"] if mount["mountpoint"] == "/")
    assert root["type"] == "overlayfs"
    assert about["sizes"]["memory"] == 57344
    assert about["sizes"]["root_changes"] == 3072
    assert about["timings_us"]["frozen"] > 0


def test_an_unpacked_archive_is_the_same_but_for_its_size(unpacked: Path) -> None:
    packed, loose = (describe(load(path)) for path in (DATA / "podman.tar.gz", unpacked))
    assert packed["sizes"].pop("stored") < loose["sizes"].pop("stored")
    assert packed == loose


def test_directory_of_criu() -> None:
    about = describe(load(DATA / "sockets"))
    assert (about["kind"], about["container"], about["network_external"]) == ("criu", None, True)
    (process,) = about["processes"]
    assert process["executable"] == "/usr/bin/python3.13"
    assert len(process["sockets"]) == len(about["sockets"]) == 16
    assert "udp connected 192.0.2.1:1006 192.0.2.1:1005" in process["sockets"]


def test_a_network_namespace_that_was_dumped_too(unpacked: Path) -> None:
    shutil.copytree(DATA / "network", unpacked / "checkpoint", dirs_exist_ok=True)
    assert describe(load(unpacked))["network_external"] is False


def kubelet_archive(unpacked: Path, path: Path, annotations: dict[str, str], log: str) -> Path:
    """The same checkpoint with the metadata of a kubelet's engine."""
    specification = json.loads((unpacked / "spec.dump").read_text())
    specification["annotations"] = annotations
    (unpacked / "spec.dump").write_text(json.dumps(specification))
    config = {
        "id": "abc",
        "name": "k8s_counter_web",
        "rootfsImageName": "registry.example/web:1",
        "rootfsImageRef": "sha256:12",
        "runtime": "crun",
        "checkpointedTime": "2026-11-24T20:00:00Z",
    }
    (unpacked / "config.dump").write_text(json.dumps(config))
    (unpacked / "dump.log").write_text(log)
    with tarfile.open(path, "w") as archive:
        archive.add(unpacked, ".")
    return path


@pytest.mark.parametrize(
    ("annotations", "engine"),
    [
        ({"io.container.manager": "cri-o", "io.kubernetes.cri-o.Name": "web"}, "cri-o"),
        ({"io.kubernetes.cri.container-name": "web"}, "containerd"),
    ],
)
def test_kubelet_archive(
    unpacked: Path, tmp_path: Path, annotations: dict[str, str], engine: str
) -> None:
    log = "(00.00) Version: 4.2.1 (gitid 0)\n(00.01) Running on node1 Linux 6.18.3-1 #1 x86_64\n"
    path = kubelet_archive(unpacked, tmp_path / "kubelet.tar", annotations, log)
    about = describe(load(path))
    assert about["kind"] == "kubelet"
    assert about["versions"]["engine"] == engine
    assert about["versions"]["criu"] == "4.2.1"
    assert about["versions"]["kernel"] == "6.18.3-1"
    assert about["container"]["image_id"] == "sha256:12"
    assert about["container"]["checkpointed"] == "2026-11-24T20:00:00Z"


def test_tree() -> None:
    lines = tree(describe(load(DATA / "podman.tar.gz")))
    assert lines[:7] == [
        "tiny (podman)",
        "├─ image: localhost/tiny:latest",
        "├─ engine: podman, runc",
        "├─ architecture: x86_64",
        "├─ host name: tiny",
        "├─ processes",
        "│  └─ 1 catatonit (/catatonit), threads: 1, descriptors: 4",
    ]
    assert lines[-1] == "   └─ root changes: 3,072 bytes"


def test_tree_of_a_family_with_names_that_a_terminal_would_obey() -> None:
    def process(pid: int, parent: int, **more: Any) -> dict[str, Any]:
        usual = {"command": f"p{pid}", "executable": None, "threads": 1, "descriptors": 0}
        return {"pid": pid, "parent": parent, "sockets": [], **usual, **more}

    about = describe(load(DATA / "sockets"))
    family = [process(1, 0), process(2, 1, sockets=["tcp x"]), process(3, 2), process(4, 1)]
    family[3]["command"] = "\x1b[2Jp4"
    about.update(processes=family, sockets=[], mounts=[])
    lines = tree(about)
    start = lines.index("├─ processes")
    assert lines[start + 1 : start + 6] == [
        "│  └─ 1 p1, threads: 1, descriptors: 0",
        "│     ├─ 2 p2, threads: 1, descriptors: 0",
        "│     │  ├─ tcp x",
        "│     │  └─ 3 p3, threads: 1, descriptors: 0",
        "│     └─ 4 \\x1b[2Jp4, threads: 1, descriptors: 0",
    ]


# -- what is refused


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "does not exist", code="no_checkpoint")
    refused(tmp_path, "has no inventory.img, which every checkpoint has", code="no_checkpoint")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    refused(tmp_path / "other.tar", "neither an archive of Podman", code="no_checkpoint")


@pytest.mark.parametrize("name", ["pstree.img", "files.img", "core-1.img", "mm-1.img"])
def test_a_missing_image(unpacked: Path, name: str) -> None:
    (unpacked / "checkpoint" / name).unlink()
    refused(unpacked, f"checkpoint/{name}: is not there")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin with a magic number"),
        (b"\x19\x43\x56\x54", "does not begin with a magic number"),
        (b"\x7fELF\x01\x02\x03\x04", "does not begin with a magic number"),
    ],
)
def test_no_image_of_criu(unpacked: Path, content: bytes, reason: str) -> None:
    (unpacked / "checkpoint" / "fs-1.img").write_bytes(content)
    refused(unpacked, "checkpoint/fs-1.img", reason)


def test_an_image_in_the_place_of_another(unpacked: Path) -> None:
    shutil.copy(unpacked / "checkpoint" / "fs-1.img", unpacked / "checkpoint" / "files.img")
    with pytest.raises(FlowferryError, match="is an image of FS where one of FILES belongs"):
        describe(load(unpacked))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x01", "ends within a length, at byte"),
        (struct.pack("<i", -1), "has a message of -1 bytes"),
        (struct.pack("<i", 1 << 30), f"has a message of {1 << 30} bytes"),
        (struct.pack("<i", 3) + b"\xff\xff\xff", "has a malformed message (file_entry"),
        (struct.pack("<i", 0), "has an incomplete message (file_entry without type, id)"),
    ],
)
def test_a_damaged_message(unpacked: Path, frame: bytes, reason: str) -> None:
    with (unpacked / "checkpoint" / "files.img").open("ab") as file:
        file.write(frame)
    refused(unpacked, "checkpoint/files.img", reason)


def append(path: Path, name: str, **fields: Any) -> None:
    """Add a message to an image."""
    message = getattr(images.pycriu().pb, name)(**fields)
    with path.open("ab") as file:
        file.write(images.frame(message.SerializeToString()))


def test_queues_that_are_longer_than_the_image(unpacked: Path) -> None:
    path = unpacked / "checkpoint" / "tcp-stream-1.img"
    shutil.copy(next((DATA / "sockets").glob("tcp-stream-*.img")), path)
    load(unpacked)
    zeros = dict.fromkeys(("inq_seq", "outq_seq", "opt_mask", "snd_wscale", "mss_clamp"), 0)
    append(path, "tcp_stream_entry", inq_len=4000, outq_len=1, **zeros)
    refused(unpacked, "tcp-stream-1.img: says that 4001 bytes of data follow, 0 are there")


def test_memory_that_is_not_there(unpacked: Path) -> None:
    os.truncate(unpacked / "checkpoint" / "pages-1.img", 4096)
    refused(unpacked, "pages-1.img: has 4096 bytes, which are not the 14 pages mapped")


def test_memory_that_nobody_maps(unpacked: Path) -> None:
    (unpacked / "checkpoint" / "pages-2.img").write_bytes(bytes(4096))
    refused(unpacked, "pages-2.img: has pages that no map names")


@pytest.mark.parametrize(("pid", "parent"), [(1, 0), (2, 7), (2, 2)])
def test_processes_in_no_tree(unpacked: Path, pid: int, parent: int) -> None:
    path = unpacked / "checkpoint" / "pstree.img"
    append(path, "pstree_entry", pid=pid, ppid=parent, pgid=1, sid=1)
    refused(unpacked, f"process {pid} is in no place of a tree")


def test_a_tree_without_end(unpacked: Path) -> None:
    place = unpacked / "checkpoint"
    for pid in range(2, 300):
        append(place / "pstree.img", "pstree_entry", pid=pid, ppid=pid - 1, pgid=1, sid=1)
        for name in ("core", "mm"):
            shutil.copy(place / f"{name}-1.img", place / f"{name}-{pid}.img")
    refused(unpacked, "has processes 200 levels deep and deeper")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"family": 99}, "an inet socket of address family 99"),
        ({"src_addr": [1, 2]}, "socket 77 has 2 words in src_addr, an address of its family has 1"),
        ({"dst_port": 70_000}, "socket 77 has a port above 65535"),
    ],
)
def test_sockets_that_cannot_be(unpacked: Path, fields: dict[str, Any], reason: str) -> None:
    path = unpacked / "checkpoint" / "files.img"
    entry = next(
        entry
        for entry in read_checkpoint(DATA / "sockets").messages("files.img", "FILES", "file_entry")
        if entry.HasField("isk") and entry.isk.family == 2
    )
    entry.isk.id = 77
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(entry.isk, name)[:] = value
        else:
            setattr(entry.isk, name, value)
    with path.open("ab") as file:
        file.write(images.frame(entry.SerializeToString()))
    with pytest.raises(FlowferryError, match=reason):
        describe(load(unpacked))


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"[1]", b"\xff"])
def test_metadata_that_is_no_object(unpacked: Path, content: bytes) -> None:
    (unpacked / "config.dump").write_bytes(content)
    with pytest.raises(FlowferryError, match=r"config.dump: is not (JSON|a JSON object)"):
        describe(load(unpacked))


def test_a_link_in_a_directory(unpacked: Path) -> None:
    (unpacked / "checkpoint" / "parent").symlink_to("/etc")
    refused(unpacked, "'parent' is a link, device, pipe or socket", code="bad_archive")


def test_an_image_that_would_fill_the_memory(unpacked: Path) -> None:
    os.truncate(unpacked / "checkpoint" / "files.img", 65 << 20)
    refused(unpacked, f"files.img: has {65 << 20} bytes, the limit is {64 << 20}")
