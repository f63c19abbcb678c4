# SPDX-License-Identifier: Apache-2.0
"""Is everything in a checkpoint what it says it is? Asked before anybody restores from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from . import images
from .contents import Checkpoint

# Images without CRIU's messages: what iproute2, netlink and nftables wrote, and plugins of CRIU.
_RAW = (
    *("ifaddr-", "route-", "route6-", "rule-", "netns-ct-", "netns-exp-"),
    *("iptables-", "ip6tables-", "nftables-", "amdgpu-"),
)
_PAGE_SIZES = (4096, 16384, 65536)
_IN_PARENT, _PRESENT = 1, 4
_ENDED = (2, 6)  # dead, zombie
_DEEPEST_TREE = 200

# How many bytes that are no message follow a message, in the images that have such bytes.
_DATA_SIZE: dict[str, Callable[[Any], int]] = {
    "TCP_STREAM": lambda message: int(message.inq_len + message.outq_len),
    "PIPES_DATA": lambda message: int(message.bytes),
    "FIFO_DATA": lambda message: int(message.bytes),
    "SK_QUEUES": lambda message: int(message.length),
}
# Images with data of a layout of its own; CRIU reads them, and only their beginning is checked.
_OWN_LAYOUT = {"GHOST_FILE", "IPCNS_SHM", "IPCNS_SEM", "IPCNS_MSG", "BPFMAP_DATA", "IRMAP_CACHE"}


def verify(checkpoint: Checkpoint) -> None:
    """Refuse, with bad_image, what is damaged or missing, and sizes that are not true."""
    for name in checkpoint.images():
        if not name.startswith(_RAW):
            _verify_image(checkpoint, name)
    _verify_processes(checkpoint)
    checkpoint.image("files.img")
    _verify_memory(checkpoint)


def _verify_processes(checkpoint: Checkpoint) -> None:
    """Parents come before their children, and each process has its images."""
    where = checkpoint.where(checkpoint.prefix + "pstree.img")
    depths = {0: 0}
    for process in checkpoint.messages("pstree.img", "PSTREE", "pstree_entry"):
        if process.pid in depths or process.ppid not in depths:
            raise images.bad_image(where, f"process {process.pid} is in no place of a tree")
        depths[process.pid] = depths[process.ppid] + 1
        if depths[process.pid] > _DEEPEST_TREE:
            raise images.bad_image(where, f"has processes {_DEEPEST_TREE} levels deep and deeper")
        core = checkpoint.message(f"core-{process.pid}.img", "CORE", "core_entry")
        # A process that has ended, and whose parent does not know yet, has no memory.
        if not core.HasField("tc") or core.tc.task_state not in _ENDED:
            checkpoint.image(f"mm-{process.pid}.img")


def _verify_image(checkpoint: Checkpoint, name: str) -> None:
    data, where = checkpoint.image(name), checkpoint.where(checkpoint.prefix + name)
    kind, start = images.kind_of(data, where)
    if kind == "PAGEMAP":
        for _ in _pagemap(data, start, where):
            pass
    elif kind in _DATA_SIZE:
        _verify_with_data(data, start, kind, where)
    elif kind not in _OWN_LAYOUT and kind in images.pycriu().handlers:
        message = images.pycriu().handlers[kind].payload.DESCRIPTOR.name
        for part in images.frames(data, start, where):
            images.parse(message, part, where)


def _verify_with_data(data: bytes, start: int, kind: str, where: str) -> None:
    message_type = images.pycriu().handlers[kind].payload.DESCRIPTOR.name
    while start < len(data):
        part = next(images.frames(data, start, where))
        start += len(images.frame(part))
        size = _DATA_SIZE[kind](images.parse(message_type, part, where))
        if not 0 <= size <= len(data) - start:
            raise images.bad_image(
                where, f"says that {size} bytes of data follow, {len(data) - start} are there"
            )
        start += size


def _pagemap(data: bytes, start: int, where: str) -> Iterator[Any]:
    """First the head, then the entries."""
    for number, part in enumerate(images.frames(data, start, where)):
        yield images.parse("pagemap_entry" if number else "pagemap_head", part, where)


def _verify_memory(checkpoint: Checkpoint) -> None:
    """The maps of memory and the files of pages have the same number of pages."""
    wanted: Counter[int] = Counter()
    for name in checkpoint.images():
        if name.startswith("pagemap-"):
            data, where = checkpoint.image(name), checkpoint.where(checkpoint.prefix + name)
            entries = _pagemap(data, images.start_of(data, "PAGEMAP", where), where)
            head = next(entries, None)
            if head is None:
                raise images.bad_image(where, "has no message")
            wanted[head.pages_id] += sum(map(_pages, entries))
    for number, pages in wanted.items():
        name = f"{checkpoint.prefix}pages-{number}.img"
        size = checkpoint.sizes.get(name, 0)
        if size not in [pages * page_size for page_size in _PAGE_SIZES]:
            raise images.bad_image(
                checkpoint.where(name), f"has {size} bytes, which are not the {pages} pages mapped"
            )
    for name in checkpoint.sizes:
        found = re.fullmatch(r"pages-(\d+)\.img", name.removeprefix(checkpoint.prefix))
        if found and int(found[1]) not in wanted:
            raise images.bad_image(checkpoint.where(name), "has pages that no map names")


def _pages(entry: Any) -> int:
    if entry.in_parent or entry.flags & _IN_PARENT:
        return 0
    if entry.HasField("flags") and not entry.flags & _PRESENT:
        return 0
    return int(entry.nr_pages or entry.compat_nr_pages)
