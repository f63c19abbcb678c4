# SPDX-License-Identifier: Apache-2.0
"""A volume and its copy: after each pass they are the same, whatever has happened in between."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.transfer import JsonLines
from ansible_collections.flowferry.core.plugins.module_utils.volumes.receiver import (
    VolumeReceiver,
)
from ansible_collections.flowferry.core.plugins.module_utils.volumes.sender import VolumeSender
from ansible_collections.flowferry.core.plugins.module_utils.volumes.tree import MARK, Tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")
KIB = 1024


class Pair:
    """Both ends of a stream, and a volume at each."""

    def __init__(self, place: Path) -> None:
        self.volume, self.copy = place / "volume", place / "copy"
        for root in (self.volume, self.copy):
            root.mkdir(exist_ok=True)
        ends = socket.socketpair()
        for end in ends:
            end.settimeout(20)
        self.error: Exception | None = None
        self._streams = [JsonLines(end) for end in ends]
        self._receiver = threading.Thread(target=self._receive)
        self._receiver.start()
        self.sender = VolumeSender(self._streams[0], [self.volume])

    def _receive(self) -> None:
        receiver = VolumeReceiver(self._streams[1], [self.copy])
        try:
            receiver.serve()
        except Exception as error:
            self.error = error
            self._streams[1].shut_down()
        finally:
            receiver.close()

    def send(self, *, last: bool = False, mapped: tuple[int, ...] = ()) -> int:
        """One pass, after which both are the same."""
        sent = self.sender.send_difference(mapped, last=last)
        assert picture(self.copy) == picture(self.volume)
        return sent

    def close(self) -> None:
        self._streams[0].shut_down()
        self._receiver.join(20)
        self.sender.close()
        for stream in self._streams:
            stream.close()


def picture(root: Path) -> dict[str, object]:
    """All that two copies have in common: attributes, content, and who shares an inode."""
    names: dict[int, list[str]] = {}
    found: dict[str, object] = {}
    with Tree(root) as tree:
        entries = tree.scan()
    for path, entry in sorted(entries.items()):
        content = (root / path).read_bytes() if entry.kind == "file" else b""
        found[path] = (entry.content, content)
        if entry.kind == "file":
            names.setdefault(entry.inode, []).append(path)
    found["same inode"] = sorted(group for group in names.values() if len(group) > 1)
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def test_everything_that_a_file_can_be(pair: Pair) -> None:
    volume = pair.volume
    (volume / "deep" / "er").mkdir(parents=True)
    (volume / "deep" / "er" / "file").write_bytes(b"content")
    (volume / "deep" / "setuid").write_bytes(b"x")
    os.chown(volume / "deep" / "setuid", 1000, 1001)
    (volume / "deep" / "setuid").chmod(0o4751)
    os.link(volume / "deep" / "er" / "file", volume / "a second name")
    (volume / "link").symlink_to("/etc/passwd")
    os.chown(volume / "link", 5, 6, follow_symlinks=False)
    os.mkfifo(volume / "pipe", 0o640)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(volume / "socket"))
    server.close()
    (volume / "empty").touch()
    (volume / "not UTF-8: \udcff\udcfe").write_text("x")
    (volume / 'quotes " and \n new lines').write_text("x")
    os.setxattr(volume / "empty", "user.colour", b"\x00blue")
    os.setxattr(volume, "trusted.whose", b"the volume's")
    os.utime(volume / "link", ns=(1, 2), follow_symlinks=False)
    os.utime(volume / "empty", ns=(10**18 + 1, 10**18 + 2))
    volume.chmod(0o1777)
    pair.sender.send_difference(())  # to compare the two would be to read them
    copied = (pair.copy / "empty").stat()
    assert (copied.st_atime_ns, copied.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
    assert stat.S_IMODE((pair.copy / "deep" / "setuid").stat().st_mode) == 0o4751
    pair.send()


def test_a_large_file_that_changed_a_little_is_sent_a_little(pair: Pair) -> None:
    big = pair.volume / "big"
    big.write_bytes(os.urandom(4096 * KIB))
    assert pair.send() == 4096 * KIB
    with big.open("r+b") as file:
        file.seek(1000 * KIB)
        file.write(b"changed")
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    sent = pair.send()
    assert 0 < sent <= 2 * 64 * KIB, sent


def test_what_is_appended_cut_and_grown_again(pair: Pair) -> None:
    log = pair.volume / "log"
    for size in (10, 100 * KIB, 64 * KIB, 64 * KIB + 1, 1, 0, 200 * KIB):
        content = os.urandom(size)
        log.write_bytes(content)
        pair.send()
    os.truncate(log, 100)
    os.truncate(log, 300 * KIB)
    pair.send()


def test_a_file_that_is_renamed_is_not_sent_again(pair: Pair) -> None:
    """Logs that rotate, and a database that replaces a file with its next version."""
    for name, byte in (("log", b"1"), ("log.1", b"2"), ("log.2", b"3"), ("data", b"4")):
        (pair.volume / name).write_bytes(byte * 300 * KIB)
    (pair.volume / "data.new").write_bytes(b"5" * 300 * KIB)
    pair.send()
    for old, new in (("log.1", "log.2"), ("log", "log.1"), ("data.new", "data")):
        (pair.volume / old).rename(pair.volume / new)
    (pair.volume / "log").write_bytes(b"new")
    (pair.volume / "moved").mkdir()
    (pair.volume / "log.2").rename(pair.volume / "moved" / "log.2")
    assert pair.send() == 3
    assert not list(pair.copy.glob(".flowferry*"))


def test_holes_stay_holes(pair: Pair) -> None:
    sparse = pair.volume / "sparse"
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 64 << 20)
        os.pwrite(file.fileno(), b"in the middle", 32 << 20)
    assert pair.send() == 64 * KIB
    assert (pair.copy / "sparse").stat().st_blocks * 512 < 1 << 20
    with sparse.open("r+b") as file:
        os.pwrite(file.fileno(), b"x" * 128 * KIB, 0)
    pair.send()
    sparse.unlink()
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 64 << 20)
    assert pair.send() == 0
    assert (pair.copy / "sparse").stat().st_blocks == 0


def test_a_hole_is_made_where_data_was(pair: Pair) -> None:
    file = pair.volume / "file"
    file.write_bytes(b"x" * 512 * KIB)
    pair.send()
    inode = file.stat().st_ino
    with file.open("r+b") as opened:  # not "wb" on another file: the same one is cut and grown
        opened.truncate(64 * KIB)
        opened.truncate(512 * KIB)
    assert file.stat().st_ino == inode
    assert pair.send() == 0
    assert (pair.copy / "file").stat().st_blocks * 512 <= 64 * KIB


def test_kinds_change(pair: Pair) -> None:
    """Each becomes each other one, at the same name."""

    def as_directory(path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text("x")

    makers: list[Callable[[Path], object]] = [
        as_directory,
        lambda path: path.write_text("file"),
        lambda path: path.symlink_to("inner"),
        lambda path: path.symlink_to("/elsewhere"),
        os.mkfifo,
    ]
    for first in makers:
        for second in makers:
            for make in (first, second):
                path = pair.volume / "changing"
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                make(path)
                pair.send()


def test_hard_links_come_and_go(pair: Pair) -> None:
    one, two = pair.volume / "one", pair.volume / "two"
    one.write_text("shared")
    pair.send()
    os.link(one, two)
    pair.send()
    one.write_text("changed by either name")
    pair.send()
    two.unlink()
    two.write_text("on its own")
    pair.send()
    one.unlink()
    os.link(two, one)
    pair.send()


def change_unseen(pair: Pair) -> Path:
    """A file that was sent changes, and none of its time stamps does."""
    file = pair.volume / "file"
    file.write_bytes(b"before" * 10)
    pair.send()
    mtime = file.stat().st_mtime_ns
    file.write_bytes(b"after!" * 10)
    os.utime(file, ns=(mtime, mtime))
    known = pair.sender.known[0]["file"]
    known.entry = replace(known.entry, ctime_ns=file.stat().st_ctime_ns)
    return file


def test_what_is_written_through_memory_is_found(pair: Pair) -> None:
    """Time stamps do not tell; that the file is mapped does."""
    file = change_unseen(pair)
    pair.sender.known[0]["file"].settled = True
    pair.sender.send_difference(())
    assert (pair.copy / "file").read_bytes()[:6] == b"before"
    pair.send(mapped=(file.stat().st_ino,))


def test_a_change_in_the_same_instant_is_found(pair: Pair) -> None:
    """The clock of files stands still for milliseconds; nothing so young is believed."""
    change_unseen(pair)
    pair.send()


@pytest.mark.parametrize("linked", ["volume", "copy"])
def test_a_copy_has_its_names_otherwise(tmp_path: Path, linked: str) -> None:
    """Two names of one file on one side are two files on the other."""
    for side in ("volume", "copy"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "one").write_text("same")
        if side == linked:
            os.link(tmp_path / side / "one", tmp_path / side / "two")
        else:
            (tmp_path / side / "two").write_text("same")
    pair = Pair(tmp_path)
    pair.send()
    pair.close()


def test_what_is_there_already_is_not_sent_again(tmp_path: Path) -> None:
    """The way back: the copy tells what it has, and only the difference goes over."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for number in range(20):
        (volume / str(number)).write_bytes(os.urandom(100 * KIB))
    os.link(volume / "0", volume / "the same")
    first = Pair(tmp_path)
    first.send()
    first.close()
    os.setxattr(first.copy, MARK, b"{}")
    (volume / "7").write_bytes(b"changed")
    (volume / "8").unlink()
    (volume / "new").mkdir()
    (first.copy / "9").unlink()
    again = Pair(tmp_path)
    sent = again.send(last=True)
    again.close()
    assert sent <= (100 + 100 + 1) * KIB, "what was the same: all but 0 (two names), 7 and 9"
    assert os.getxattr(again.copy, MARK) == b"{}", "the mark is not the content's"


def test_a_single_file(tmp_path: Path) -> None:
    source, copy = tmp_path / "a.conf", tmp_path / "b.conf"
    source.write_text("one")
    ends = [JsonLines(end) for end in socket.socketpair()]
    receiver = VolumeReceiver(ends[1], [copy])
    thread = threading.Thread(target=receiver.serve)
    thread.start()
    sender = VolumeSender(ends[0], [source])
    sender.send_difference(())
    assert copy.read_text() == "one"
    source.write_text("another")
    source.chmod(0o600)
    sender.send_difference((), last=True)
    assert (copy.read_text(), copy.stat().st_mode & 0o777) == ("another", 0o600)
    ends[0].shut_down()
    thread.join(10)


def test_what_takes_too_long_in_the_hold_is_given_up(pair: Pair) -> None:
    pair.sender.deadline = time.monotonic()
    with pytest.raises(FlowferryError, match="move it when it writes less") as refused:
        pair.send(last=True)
    assert refused.value.code == "transfer_failed"


def test_a_device_is_refused(pair: Pair) -> None:
    os.mknod(pair.volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(FlowferryError, match="null in a volume is a character device") as refused:
        pair.send()
    assert refused.value.code == "volume_cannot_move"


def test_a_link_in_the_way_is_not_followed(pair: Pair, tmp_path: Path) -> None:
    """The workload puts a link in the place of a directory, between the look and the reading."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("of the node")
    (pair.volume / "inner").mkdir()
    (pair.volume / "inner" / "file").write_text("of the volume")
    scan = Tree.scan

    def scan_and_swap(tree: Tree, *arguments: object) -> object:
        found = scan(tree, *arguments)  # type: ignore[arg-type]
        shutil.rmtree(pair.volume / "inner")
        (pair.volume / "inner").symlink_to(tmp_path / "secret")
        tree.let_go()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tree, "scan", scan_and_swap)
        pair.sender.send_difference(())
    assert not (pair.copy / "inner" / "file").exists()
    pair.send()


# -- whatever happens


class Chaos:
    """Changes a tree at random, as programs do."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)

    def step(self) -> None:
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        directories = [self.root, *(p for p in sorted(self.root.rglob("*")) if _is_dir(p))]
        choice = self.random.choice(
            [self._write, self._write, self._append, self._rename, self._remove, self._link]
            + [self._directory, self._symlink, self._attributes, self._replace, self._cut]
        )
        choice(files, directories)

    def _name(self, directories: list[Path]) -> Path:
        return self.random.choice(directories) / self.random.choice("abcdefg")

    def _write(self, files: list[Path], directories: list[Path]) -> None:
        path = self._name(directories)
        if not os.path.lexists(path) or path.is_file():
            path.write_bytes(self.random.randbytes(self.random.choice([0, 5, 70_000])))

    def _append(self, files: list[Path], directories: list[Path]) -> None:
        if files:
            with self.random.choice(files).open("ab") as file:
                file.write(self.random.randbytes(self.random.choice([1, 66_000])))

    def _cut(self, files: list[Path], directories: list[Path]) -> None:
        if files:
            os.truncate(self.random.choice(files), self.random.choice([0, 3, 65_536, 150_000]))

    def _rename(self, files: list[Path], directories: list[Path]) -> None:
        movable = sorted(self.root.rglob("*"))
        target = self._name(directories)
        if movable:
            try:
                self.random.choice(movable).rename(target)
            except OSError:  # into itself, or over a directory
                return

    def _replace(self, files: list[Path], directories: list[Path]) -> None:
        if files:
            path = self.random.choice(files)
            new = path.with_name("new")
            if not os.path.lexists(new):
                new.write_bytes(self.random.randbytes(10))
                new.replace(path)

    def _remove(self, files: list[Path], directories: list[Path]) -> None:
        there = sorted(self.root.rglob("*"))
        if there:
            path = self.random.choice(there)
            shutil.rmtree(path) if _is_dir(path) else path.unlink()

    def _link(self, files: list[Path], directories: list[Path]) -> None:
        target = self._name(directories)
        if files and not os.path.lexists(target):
            os.link(self.random.choice(files), target)

    def _directory(self, files: list[Path], directories: list[Path]) -> None:
        path = self._name(directories)
        if not os.path.lexists(path):
            path.mkdir()

    def _symlink(self, files: list[Path], directories: list[Path]) -> None:
        path = self._name(directories)
        if not os.path.lexists(path):
            path.symlink_to(self.random.choice(["a", "..", "/etc", "nowhere"]))

    def _attributes(self, files: list[Path], directories: list[Path]) -> None:
        path = self.random.choice([*files, *directories])
        path.chmod(self.random.choice([0o600, 0o755, 0o2770]))
        os.setxattr(path, "trusted.number", self.random.randbytes(3))


def _is_dir(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@pytest.mark.parametrize("seed", range(12))
def test_passes_over_a_tree_in_change(tmp_path: Path, seed: int) -> None:
    pair = Pair(tmp_path)
    chaos = Chaos(pair.volume, seed)
    try:
        for _ in range(12):
            for _ in range(chaos.random.randrange(1, 12)):
                chaos.step()
            pair.send(last=True)
        pair.close()
        for _ in range(8):  # the copy has gone another way meanwhile
            Chaos(pair.copy, seed + 1000).step()
        pair = Pair(tmp_path)
        pair.send(last=True)
    finally:
        pair.close()
    assert pair.error is None


def test_a_tree_that_changes_while_it_is_read(pair: Pair) -> None:
    chaos, stop = Chaos(pair.volume, 7), threading.Event()

    def change() -> None:
        while not stop.is_set():
            chaos.step()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(15):
            pair.sender.send_difference(())
    finally:
        stop.set()
        thread.join()
    pair.send(last=True)
    assert pair.error is None
