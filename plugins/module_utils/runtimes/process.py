# SPDX-License-Identifier: Apache-2.0
"""A process tree in a network namespace of its own, by CRIU directly.

The workload's name is that of the namespace: everything that runs in it moves together. The
processes share all other namespaces with the node, so CRIU is run inside the network namespace,
where it sees nothing foreign and leaves the network alone. They are put into a freezer cgroup, on
the source before the hold and on the destination by the restore; what is in it is the workload.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import endpoint as endpoints
from .. import open_files
from ..cgroup import ROOT, Freezer
from ..criu import check_pipes, check_processes, link
from ..criu_service import OPTIONS, CriuService, learn_kernel
from ..errors import FlowferryError
from ..memory.apart import Incoming, Outgoing, sending
from ..memory.regions import resident
from ..processes import Process, in_network, roots
from .base import PATIENCE, About, Workload

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


class ProcessTree(Workload):
    """The processes in the network namespace of an endpoint."""

    runtime = "process"
    noun = "process tree"
    listing = "ip netns list"
    removal = "ip netns pids {name} | xargs kill"
    start = "setsid nsenter --net=/run/netns/{name} PROGRAM"
    growing_files = ("images/pages-*.img",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._service: CriuService | None = None
        self._outgoing: Outgoing | None = None

    def streams_memory(self, about: About) -> bool:
        return True

    @property
    def namespace(self) -> Path:
        """Where the network namespace has its name."""
        return endpoints.NAMESPACES / self.name

    @property
    def moved_files(self) -> open_files.Record:
        """Which files of this node go away when the workload is removed from it."""
        return open_files.Record(Path(f"/run/flowferry/{self.file_name}.files"))

    @property
    def freezer(self) -> Freezer:
        """The cgroup of its processes, from prepare on."""
        return Freezer(ROOT / "freezer" / f"flowferry-{self.name}")

    # -- plan

    @classmethod
    def check_node(cls) -> None:
        super().check_node()
        if not (ROOT / "freezer" / "cgroup.procs").exists():
            raise FlowferryError(
                "no_freezer",
                f"{ROOT}/freezer is not there; processes are frozen through the freezer of cgroup "
                "version 1, which this node has to mount",
            )

    def describe(self) -> About | None:
        tree = in_network(self.namespace)
        if not tree:
            return None
        endpoint = endpoints.find(self.name)
        root = roots(tree)[0]
        return {
            "id": f"{root.pid}.{root.started}",
            "status": "running",
            "pid": root.pid,
            "command": root.command(),
            "pids": [process.pid for process in tree],
            "endpoint": endpoint.as_dict() if endpoint else None,
            "memory_bytes": sum(process.resident_bytes() for process in tree),
        }

    def check_source(self) -> About:
        about = self.require_running()
        tree = in_network(self.namespace)
        self._check_tree(tree)
        self.check_node()
        check_processes(self.title, about["pids"])
        check_pipes(self.title, about["pids"])
        ids = {pid for process in tree for pid in (*process.threads(), process.group)}
        files = open_files.find(about["pids"])
        return {
            **about,
            "ids": sorted(ids),
            "directories": sorted({link(Path(f"/proc/{pid}/cwd")) for pid in about["pids"]} - {""}),
            "files": [file.as_dict() for file in files],
            "memory_bytes": about["memory_bytes"] + sum(file.size for file in files if file.moves),
            "apart_bytes": resident(about["pids"]),
        }

    def _check_tree(self, tree: list[Process]) -> None:
        """Refuse what CRIU cannot dump, or could not restore on another node."""
        for process in tree:
            foreign = process.foreign_namespaces()
            if foreign:
                raise FlowferryError(
                    "own_namespaces",
                    f"{self.title}: process {process.pid} ({process.command()}) has namespaces of "
                    f"its own ({', '.join(foreign)}); move a container by its runtime, and start a "
                    f"plain process with `{self.start.format(name=self.name)}` (ip netns exec "
                    "makes a mount namespace)",
                )
        tops = roots(tree)
        if len(tops) > 1:
            names = ", ".join(f"{process.pid} ({process.command()})" for process in tops)
            raise FlowferryError(
                "several_trees",
                f"{self.title} has processes without a common parent: {names}; start them from "
                "one, or give each a namespace of its own",
            )
        pids = {process.pid for process in tree}
        for process in tree:
            if process.terminal or not {process.session, process.group} <= pids:
                raise FlowferryError(
                    "outside_session",
                    f"{self.title}: process {process.pid} ({process.command()}) belongs to a "
                    "session or a terminal outside, which would stay behind; start the program "
                    f"with `{self.start.format(name=self.name)}`",
                )

    def check_destination(self, about: About, directory: Path) -> None:
        self.check_node()
        if in_network(self.namespace):
            raise FlowferryError(
                "name_taken",
                f"other processes run in the namespace {self.name} on the destination; end them "
                f"there: `{self.removal.format(name=self.name)}`",
            )
        for number in about["ids"]:
            if Path(f"/proc/{number}").exists():
                raise FlowferryError(
                    "pid_taken",
                    f"{self.title} has the process or thread id {number}, which is taken on the "
                    f"destination by {_command(number)}; end that, or start the workload again "
                    "for it to get other ids",
                )
        for name in about["directories"]:
            if not Path(name).is_dir():
                raise FlowferryError(
                    "no_file",
                    f"{self.title} runs in the directory {name}, which the destination does not "
                    "have; make it there",
                )
        files = [open_files.OpenFile(**file) for file in about["files"]]
        open_files.check_destination(self.title, files)
        self.check_room(about, directory)

    # -- prepare

    def prepare_source(self, about: About) -> None:
        self._prepare()
        inside = self.freezer.path / "cgroup.procs"
        # A process that was born meanwhile has its parent's old cgroup.
        while missing := self._outside_freezer():
            for pid in missing:
                with suppress(ProcessLookupError):  # it has ended in the meantime
                    inside.write_text(str(pid))
        self._outgoing = Outgoing(self.memory_sender) if self.memory_sender else None
        keep = [self._outgoing.descriptor] if self._outgoing else []
        self._service = CriuService(self.namespace, keep=keep)

    def _outside_freezer(self) -> set[int]:
        return {process.pid for process in in_network(self.namespace)} - set(self.freezer.pids())

    def prepare_destination(self, about: About, endpoint: endpoints.Endpoint) -> None:
        super().prepare_destination(about, endpoint)
        self._prepare()
        # The kernel gives out ids in ascending order: those that are needed soon are passed over.
        last = max(about["ids"])
        if int(_LAST_PID.read_text()) < last:
            _LAST_PID.write_text(str(last))
        self._service = CriuService(self.namespace, self.freezer.path)

    def _prepare(self) -> None:
        self.moved_files.forget()
        self.freezer.path.mkdir(exist_ok=True)
        learn_kernel()

    # -- source

    def freeze(self, about: About) -> None:
        self.freezer.freeze()

    def resume(self, about: About) -> None:
        self.moved_files.forget()
        self.freezer.thaw()

    def checkpoint(self, about: About, directory: Path) -> None:
        images, files = directory / "images", directory / "files"
        images.mkdir()
        files.mkdir()
        with self._criu() as criu, self._memory_apart(directory, images) as more:
            criu.dump(
                images,
                PATIENCE,
                pid=about["pid"],
                leave_running=True,
                freeze_cgroup=str(self.freezer.path),
                **OPTIONS,
                **more,
            )
        pids = self.freezer.pids()
        (directory / "processes.json").write_text(json.dumps(pids))
        self.moved_files.write(about["id"], open_files.pack(open_files.find(pids), files))

    @contextmanager
    def _memory_apart(self, directory: Path, images: Path) -> Iterator[dict[str, int]]:
        """Options of a dump during which large memory is sent already, if that was prepared."""
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is None:
            yield {}
            return
        options = {"page_server": outgoing.descriptor}
        pids = {pid: pid for pid in self.freezer.pids()}
        with sending(self.memory_sender), outgoing.dumping(directory, images, pids):
            yield options

    # -- destination

    def restore(self, about: About, directory: Path) -> None:
        self.moved_files.write(about["id"], open_files.packed(directory / "files"))
        open_files.unpack(directory / "files")
        with self._criu(self.freezer.path) as criu:
            incoming = Incoming(self.memory_receiver, directory, directory / "images")
            more = {**OPTIONS, **incoming.begin()}
            criu.restore(directory / "images", PATIENCE, self._at_steps(incoming), **more)
        wanted = set(json.loads((directory / "processes.json").read_text()))
        missing = wanted - set(self.freezer.pids())
        if missing:
            raise FlowferryError(
                "restore_failed", f"{self.title}: processes {sorted(missing)} ended at once"
            )

    def _at_steps(self, incoming: Incoming) -> Callable[[str, int], None] | None:
        """What is to be done at CRIU's steps: nothing, unless memory comes apart."""

        def on_step(step: str, _: int) -> None:
            try:
                pids = {pid: pid for pid in self.freezer.pids()}
                incoming.at_step(step, pids, self.freezer.path)
            except BaseException:
                self.freezer.kill()  # or CRIU would let them run, with memory missing
                raise

        return on_step if incoming.is_needed else None

    @contextmanager
    def _criu(self, cgroup: Path | None = None) -> Iterator[CriuService]:
        """The CRIU that was started in prepare; a new one for a helper that has not seen that."""
        service, self._service = self._service, None
        service = service or CriuService(self.namespace, cgroup)
        try:
            yield service
        except FlowferryError as error:
            raise FlowferryError(error.code, f"{self.title}: {error}", error.details) from error
        finally:
            service.close()

    def _let_criu_go(self) -> None:
        """One that was not needed is in the namespace, as if it belonged to the workload."""
        if self._service is not None:
            self._service.end()
            self._service = None

    # -- either

    def remove(self, about: About, endpoint: endpoints.Endpoint) -> None:
        self._let_criu_go()
        endpoints.remove(endpoint)
        self.freezer.end()
        self.moved_files.remove_files(about["id"])


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        return "a process that has just ended"
