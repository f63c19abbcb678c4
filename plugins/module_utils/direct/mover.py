# SPDX-License-Identifier: Apache-2.0
"""The direct method: processes go from a running container into one that runs already.

At the destination that is a placeholder, which kubelet and container runtime have made like any
other container. CRIU, started beforehand in both, does all that is done while packets are held.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..cgroup import ChangesOfGroup, Freezer
from ..checkpoint import images
from ..cri.base import Container
from ..criu_service import OPTIONS, learn_kernel
from ..errors import FlowferryError
from ..memory.apart import Incoming, Outgoing, sending
from ..memory.post_copy_destination import PostCopyReceiver
from ..memory.stream import Receiver, Sender
from ..own_time import OWN
from ..processes import Process
from .application import own_pids, restored
from .criu_inside import CriuInside
from .inside import Beforehand, cgroups_of, keep_ids_free, own_processes, with_files_of
from .layer import ARCHIVE, Layer, take_out
from .place import PodPlace

_PATIENCE = 55.0
About = dict[str, Any]


class DirectMover:
    """Of one pod on one node, in one helper. ``about`` is what is known of the pod."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._services: dict[str, CriuInside] = {}
        self._containers: dict[str, int] = {}
        self._processes: dict[str, Beforehand] = {}
        self._writers: dict[str, Beforehand] = {}
        self._layers: dict[str, Layer] = {}
        self._outgoing: dict[str, Outgoing] = {}
        self._sender: Sender | None = None
        self._receiver: Receiver | PostCopyReceiver | None = None
        self._done: list[CriuInside] = []
        """What has served, and is tidied away when nobody waits any more."""

    # -- source

    def prepare_source(self, about: About, sender: Sender | None = None) -> None:
        """Start CRIU beside each application; large memory goes by the sender."""
        images.pycriu()
        learn_kernel()
        self._sender = sender
        for name, container in about["containers"].items():
            lent = []
            if sender is not None:
                self._outgoing[name] = Outgoing(sender, _number(about, name))
                lent.append(self._outgoing[name].descriptor)
            self._services[name] = CriuInside(container["direct"]["pid"], lent=lent)
            self._layers[name] = Layer.of(container["direct"]["pid"])

    def freeze(self, about: About) -> None:
        """Stop every process."""
        for container in about["containers"].values():
            Freezer(container["freezer"]).freeze()

    def checkpoint(self, about: About, directory: Path) -> None:
        """Dump what is frozen, and stays so."""
        containers = about["containers"]
        with sending(self._sender):
            _at_once(containers, lambda name: self._dump(name, containers[name], directory / name))

    def _dump(self, name: str, container: dict[str, Any], here: Path) -> None:
        here.mkdir()
        pid = container["direct"]["pid"]
        layer = self._layers.pop(name, None) or Layer.of(pid)
        service = self._services.pop(name, None) or CriuInside(pid)
        self._done.append(service)
        with ThreadPoolExecutor(1) as beside:
            packed = beside.submit(layer.pack, here / ARCHIVE)
            try:
                with self._memory_apart(name, container, here) as more:
                    freezer = Path(container["freezer"])
                    service.dump_container(here, _PATIENCE, freezer, **OPTIONS, **more)
            except FlowferryError as error:
                raise self._named(error) from error
            packed.result()
        if not container["direct"]["is_child"]:
            _have_own_pids(here / "inventory.img")

    @contextmanager
    def _memory_apart(
        self, name: str, container: dict[str, Any], here: Path
    ) -> Iterator[dict[str, int]]:
        """Options of a dump during which large memory is sent already, if that was prepared."""
        outgoing = self._outgoing.pop(name, None)
        if outgoing is None:
            yield {}
            return
        application = Path("/proc", str(container["direct"]["pid"]))
        pids = own_pids(application, Freezer(container["freezer"]).pids())
        options = {"page_server": outgoing.descriptor}
        with outgoing.dumping(here, here, pids):
            yield options

    def resume(self, about: About) -> None:
        """Let the source go on where it was."""
        self.end()
        for container in about["containers"].values():
            Freezer(container["freezer"]).thaw()

    # -- destination

    def prepare_destination(
        self,
        about: About,
        containers: list[Container],
        receiver: Receiver | PostCopyReceiver | None = None,
    ) -> None:
        """Start CRIU in each placeholder; large memory comes by the receiver."""
        images.pycriu()
        learn_kernel()
        self._receiver = receiver
        for container in containers:
            if container.name not in about["containers"]:
                continue
            self._containers[container.name] = container.pid
            told = about["containers"][container.name]["direct"]
            streams = {
                pipe: os.open(f"/proc/{container.pid}/fd/{number}", os.O_WRONLY)
                for number, pipe in told["streams"].items()
            }
            if told["is_child"]:
                keep_ids_free(container.pid, told["highest_id"])
            else:
                self._processes[container.name] = own_processes(container.pid)
            service = CriuInside(
                container.pid, streams, joins=True, copies_mounts=not told["is_child"]
            )
            self._services[container.name] = service
            self._writers[container.name] = with_files_of(container.pid, take_out)

    def restore(self, about: About, directory: Path, place: PodPlace) -> None:
        """Bring the applications to life in the placeholders."""
        if not set(about["containers"]) <= set(self._services):
            raise FlowferryError("helper_lost", "this helper has not prepared the destination")

        def revive(name: str) -> None:
            here = directory / name
            incoming = Incoming(self._receiver, here, here, _number(about, name))
            is_child = about["containers"][name]["direct"]["is_child"]
            self._revive(name, here, place, is_child, incoming)

        _at_once(about["containers"], revive)

    def _revive(
        self, name: str, here: Path, place: PodPlace, is_child: bool, incoming: Incoming
    ) -> None:
        container, service = self._containers[name], self._services.pop(name)
        self._done.append(service)
        self._write(name, here / ARCHIVE)
        changes = ChangesOfGroup(_PATIENCE)  # by _complete(), at the end of the restore
        try:
            pid = service.restore_container(
                here,
                _PATIENCE,
                self._processes.get(name),
                lambda first: _complete(container, first, is_child, incoming),
                **incoming.begin(),
                **OPTIONS,
            )
        except FlowferryError as error:
            raise self._named(error) from error
        finally:
            changes.end()
        place.has_come(name, pid)
        self._require(container, pid)

    def _write(self, name: str, archive: Path) -> None:
        """What the application had written outside of volumes."""
        if not archive.exists():
            return
        self._writers[name].begin(str(archive))
        if not self._writers[name].succeeds():
            raise FlowferryError(
                "restore_failed", f"{self._title}: what it had written could not be written again"
            )

    def _require(self, container: int, pid: int) -> None:
        seen = Path(f"/proc/{container}/root/proc/{pid}/stat")
        try:
            state = seen.read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            state = "gone"
        if Process.read(container) is None or state in ("gone", "Z", "X"):
            raise FlowferryError("restore_failed", f"{self._title}: the copy ended at once")

    def end(self) -> None:
        """Whoever waits for a request need not any more."""
        for service in self._services.values():
            service.end()
        self._services.clear()
        self.tidy()

    def tidy(self) -> None:
        """Leave nothing of what has served."""
        for service in self._done:
            service.close()
        self._done.clear()
        for waiting in (*self._processes.values(), *self._writers.values()):
            waiting.close()

    def _named(self, error: FlowferryError) -> FlowferryError:
        return FlowferryError(error.code, f"{self._title}: {error}", error.details)


def _at_once(names: Iterable[str], work: Callable[[str], None]) -> None:
    """Work on each container, on all at the same time; one that fails does not stop the others."""
    first, *others = names
    if not others:
        work(first)
        return

    def counted(name: str) -> None:
        with OWN.counted():
            work(name)

    with ThreadPoolExecutor(1 + len(others)) as pool:
        for begun in [pool.submit(counted, name) for name in (first, *others)]:
            begun.result()


def _number(about: About, name: str) -> int:
    """Of a container's dump, for both ends."""
    return sorted(about["containers"]).index(name)


def _complete(container: int, first: int, is_child: bool, incoming: Incoming) -> None:
    """Give a copy that does not run yet the memory that comes apart, and its place among others.

    CRIU has restored it outside of the group that limits its share of the processors.
    """
    groups = dict(cgroups_of(container))
    pids = restored(container, first, is_child, Freezer(groups["freezer"]).pids())
    try:
        if incoming.is_needed:
            incoming.place(pids, groups["freezer"])
        for pid in pids.values() if "cpu" in groups else []:
            (groups["cpu"] / "cgroup.procs").write_text(str(pid))
    except BaseException:
        for pid in pids.values():  # or CRIU would let them run, with memory missing
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise


def _have_own_pids(inventory: Path) -> None:
    """Have a restore make a namespace of process ids: the container has a first process already.

    CRIU makes one for processes whose namespace is not that of the CRIU that has dumped them.
    """
    data = images.read(inventory)
    start = images.start_of(data, "INVENTORY", inventory)
    message = images.parse(
        "inventory_entry", next(images.frames(data, start, inventory)), inventory
    )
    message.root_ids.pid_ns_id += 1 << 20
    images.replace(inventory, data[:start] + images.frame(message.SerializeToString()))
