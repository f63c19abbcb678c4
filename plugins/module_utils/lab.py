# SPDX-License-Identifier: Apache-2.0
"""Hosts of the embedded lab: namespaces with an init, an sshd and virtual cables.

A host is an overlay of a cached Debian root in its own mount, pid, uts, ipc, net and cgroup
namespaces. Everything it writes lies in a tmpfs of its own mount namespace, so that ending its
init ends the host and leaves nothing but an empty cgroup, which ``stop`` removes.

The cgroup namespace matters more than it seems: all hosts share one kernel, and a container that
moves keeps its id. Without a cgroup root of its own for each host, the copy would join the cgroup
of the original, and freezing one would freeze the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .processes import start_time

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
MNT_DETACH = 0x2
NEW_NAMESPACES = (
    0x00020000  # mount
    | 0x02000000  # cgroup
    | 0x04000000  # uts
    | 0x08000000  # ipc
    | 0x20000000  # pid
    | 0x40000000  # net
)
CGROUP_ROOT = Path("/sys/fs/cgroup")
INTERFACE_NAME_LIMIT = 15

# sshd first, since catatonit never starts anything: it only reaps.
BOOT = (
    "mkdir -p /run/sshd && /usr/sbin/sshd -E /var/log/sshd.log </dev/null"
    " && exec /usr/bin/catatonit -P"
)
# What systemd starts, beside what every system needs: packages of the root have units of their own,
# and what runs is the roles' to say.
STARTED_UNITS = ("ssh.service",)
SSHD_CONFIG = """\
# Written by the Flowferry lab.
HostKey /etc/ssh/flowferry_host_key
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
MaxSessions 100
MaxStartups 100
# The lab's kernel may have cgroup v1, of which Podman warns at every call.
SetEnv PODMAN_IGNORE_CGROUPSV1_WARNING=1
"""
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("kmsg", 1, 11),  # the kubelet reads what the kernel says of memory
    ("loop-control", 10, 237),
)
# A file system in a file, which limits what a registry stores, is mounted through one of them.
BLOCK_DEVICES = tuple((f"loop{number}", 7, number) for number in range(16))
DEVICE_LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)


class LabError(Exception):
    """Says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Management:
    """The host's place in the management network, a bridge in the controller's namespace."""

    bridge: str
    bridge_address: str
    address: str
    interface: str = "mgmt0"

    @property
    def mac(self) -> str:
        """The same after a restart, or this machine would ask the old one for half a minute."""
        octets = self.address.partition("/")[0].split(".")
        return "02:fe:" + ":".join(f"{int(octet):02x}" for octet in octets)


@dataclass(frozen=True)
class Interface:
    """One end of a virtual cable; the other end is in ``peer_host``."""

    name: str
    peer_host: str
    peer_interface: str
    mac: str = ""
    address: list[str] = field(default_factory=list)
    gateway: list[str] = field(default_factory=list)
    mtu: int = 1500
    """Of both ends."""


@dataclass(frozen=True)
class HostSpec:
    """What a host is to be."""

    name: str
    lab: str
    state_directory: str
    layers: list[str] = field(default_factory=list)
    management: Management | None = None
    interfaces: list[Interface] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    host_key: str = ""
    authorized_keys: str = ""
    storage_size: str = "4g"
    systemd: bool = False

    @property
    def cgroup(self) -> str:
        return f"flowferry-{self.lab}-{self.name}"

    @property
    def directory(self) -> Path:
        return Path(self.state_directory) / "hosts" / self.name

    @property
    def log(self) -> Path:
        return self.directory / "boot.log"

    def identity(self) -> dict[str, Any]:
        """What cannot change without a restart, to be kept beside the pid."""
        kept = asdict(self)
        for late in ("interfaces", "management"):
            kept.pop(late)
        return kept


# --- small tools -----------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], timeout: float, message: Callable[[], str]) -> None:
    """Poll until the condition holds, or raise LabError with the message."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(message())
        time.sleep(0.01)


def run(*command: str, netns: int | None = None) -> str:
    """Run a command, in the network namespace of a process if asked, and return its output."""
    full = list(command)
    if netns is not None:
        full = ["nsenter", f"--net=/proc/{netns}/ns/net", *full]
    try:
        done = subprocess.run(full, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LabError(
            f"'{full[0]}' is not installed on this machine; install iproute2 and util-linux."
        ) from error
    if done.returncode != 0:
        raise LabError(f"'{' '.join(full)}' failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def lab_lock(state_directory: str) -> Iterator[None]:
    """Hosts of a lab are started one at a time where they touch what they share."""
    directory = Path(state_directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the kernel ------------------------------------------------------------------------------


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LabError(f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path | str, kind: str, flags: int = 0, data: str = "") -> None:
    result = _libc().mount(
        source.encode(),
        str(target).encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"cannot mount {kind or source} on {target}")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


# --- cgroups ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy of this machine."""

    path: Path
    options: str  # mount options that name the controllers; empty for cgroup v2

    @property
    def unified(self) -> bool:
        return not self.options


def hierarchies(mountinfo: str | None = None) -> list[Hierarchy]:
    """The v1 hierarchies of this machine, or, when it has none, the unified one."""
    found = every_hierarchy(mountinfo)
    return [hierarchy for hierarchy in found if not hierarchy.unified] or found


def every_hierarchy(mountinfo: str | None = None) -> list[Hierarchy]:
    """All of this machine: a unified one may be beside those of v1, and systemd uses it, too."""
    text = mountinfo
    if text is None:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    first, unified = [], []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _source, super_options = right.split(" ", 2)
        path = Path(left.split()[4])
        if path != CGROUP_ROOT and CGROUP_ROOT not in path.parents:
            continue
        if kind == "cgroup":
            first.append(Hierarchy(path, _controllers(super_options)))
        elif kind == "cgroup2":
            unified.append(Hierarchy(path, ""))
    found = first + unified
    if not found:
        raise LabError(f"No cgroup hierarchy is mounted under {CGROUP_ROOT}; the lab needs one.")
    return found


def _controllers(super_options: str) -> str:
    """From the options of a v1 mount, those that name its controllers."""
    words = [w for w in super_options.split(",") if w not in ("rw", "ro", "xattr", "noprefix")]
    kept = [w for w in words if not w.startswith(("release_agent=", "clone_children"))]
    if any(w.startswith("name=") for w in kept):
        kept.insert(0, "none")
    return ",".join(kept)


def create_cgroups(name: str) -> None:
    for hierarchy in every_hierarchy():
        directory = hierarchy.path / name
        directory.mkdir(exist_ok=True)
        # A new v1 cpuset is empty, and nothing can join an empty one.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            parent = hierarchy.path / setting
            if not hierarchy.unified and parent.exists():
                (directory / setting).write_text(parent.read_text())


def join_cgroups(name: str) -> None:
    for hierarchy in every_hierarchy():
        (hierarchy.path / name / "cgroup.procs").write_text("0")


def cgroup_processes(name: str) -> list[int]:
    """Pids in the host's cgroups, those of its containers included."""
    pids: set[int] = set()
    for hierarchy in every_hierarchy():
        for procs in (hierarchy.path / name).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(word) for word in procs.read_text().split())
    return sorted(pids - {0, os.getpid()})


def thaw_cgroups(name: str) -> None:
    """A process in a frozen v1 cgroup does not even die: a stopped migration may leave one."""
    for hierarchy in every_hierarchy():
        for state in (hierarchy.path / name).rglob("freezer.state"):
            with contextlib.suppress(OSError):
                state.write_text("THAWED")


def remove_cgroups(name: str, timeout: float = 10.0) -> None:
    def gone() -> bool:
        for hierarchy in every_hierarchy():
            top = hierarchy.path / name
            children = sorted(top.rglob("*/"), key=lambda p: len(p.parts), reverse=True)
            for directory in [*children, top]:
                if directory.is_dir():
                    with contextlib.suppress(OSError):
                        directory.rmdir()
        return not any((h.path / name).exists() for h in every_hierarchy())

    wait_until(
        gone,
        timeout,
        lambda: (
            f"The cgroup {name} does not go away; its processes are still there: "
            f"{cgroup_processes(name)}."
        ),
    )


# --- inside the new namespaces ---------------------------------------------------------------


def _mount_devices(root: Path) -> None:
    dev = root / "dev"
    _mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    umask = os.umask(0)
    for name, major, minor in DEVICES:
        os.mknod(dev / name, 0o020666, os.makedev(major, minor))
    for name, major, minor in BLOCK_DEVICES:
        os.mknod(dev / name, 0o060600, os.makedev(major, minor))
    os.umask(umask)
    for name, target in DEVICE_LINKS:
        (dev / name).symlink_to(target)
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    flags = MS_NOSUID | MS_NOEXEC
    _mount("devpts", dev / "pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620,gid=5")
    _mount("tmpfs", dev / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    _mount("mqueue", dev / "mqueue", "mqueue", flags | MS_NODEV)


def _mount_cgroups(root: Path, found: list[Hierarchy]) -> None:
    """Mounted within the cgroup namespace, a hierarchy shows only the host's part of it."""
    target = root / "sys/fs/cgroup"
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if found[0].unified:
        _mount("cgroup2", target, "cgroup2", flags)
        _delegate_controllers(target)
        return
    _mount("tmpfs", target, "tmpfs", flags, "mode=755")
    for hierarchy in found:
        (target / hierarchy.path.name).mkdir()
        kind = "cgroup2" if hierarchy.unified else "cgroup"
        _mount(kind, target / hierarchy.path.name, kind, flags, hierarchy.options)
    if not any("hugetlb" in hierarchy.options for hierarchy in found):
        # Kubelets limit huge pages where there are some, and some runtimes fail if they cannot.
        _mount("tmpfs", root / "sys/kernel/mm/hugepages", "tmpfs", flags, "mode=755")


def _delegate_controllers(top: Path) -> None:
    """cgroup v2 gives controllers to children only while their parent has no processes."""
    (top / "init").mkdir(exist_ok=True)
    (top / "init/cgroup.procs").write_text("0")
    available = (top / "cgroup.controllers").read_text().split()
    (top / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))


def _mount_root(spec: HostSpec) -> Path:
    base = spec.directory / "root"
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", base, "tmpfs", 0, "mode=755")
    upper, work, root = base / "upper", base / "work", base / "merged"
    for directory in (upper, work, root):
        directory.mkdir()
    layers = ":".join(spec.layers)
    _mount("overlay", root, "overlay", 0, f"lowerdir={layers},upperdir={upper},workdir={work}")
    return root


def _mount_host(spec: HostSpec) -> Path:
    found = every_hierarchy() if spec.systemd else hierarchies()
    root = _mount_root(spec)
    _mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("sysfs", root / "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount_devices(root)
    _mount("tmpfs", root / "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _mount("tmpfs", root / "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    # Podman stacks overlays itself, which the kernel refuses on top of this one.
    storage = root / "var/lib/containers"
    storage.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", storage, "tmpfs", 0, f"mode=700,size={spec.storage_size}")
    _mount_cgroups(root, found)
    with contextlib.suppress(LabError):  # only the switch host needs it, and says so itself
        _mount("bpf", root / "sys/fs/bpf", "bpf")
    return root


def _write_files(spec: HostSpec, root: Path) -> None:
    etc = root / "etc"
    _write(etc / "hostname", f"{spec.name}\n")
    _write(etc / "hosts", f"127.0.0.1 localhost\n127.0.1.1 {spec.name}\n::1 localhost\n")
    _write(etc / "ssh/sshd_config.d/flowferry.conf", SSHD_CONFIG)
    _write(etc / "ssh/flowferry_host_key", Path(spec.host_key).read_text(), 0o600)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _write(root / "root/.ssh/authorized_keys", Path(spec.authorized_keys).read_text(), 0o600)


def _become_init(spec: HostSpec) -> NoReturn:
    """The first process of the host: mounts, settings, then the real init."""
    root = _mount_host(spec)
    _write_files(spec, root)
    if spec.systemd:
        _choose_units(root)
    socket.sethostname(spec.name)
    for name, value in spec.sysctls.items():
        setting = root / "proc/sys" / name.replace(".", "/")
        try:
            setting.write_text(value)
        except OSError as error:
            raise LabError(f"cannot set {name} to {value} on {spec.name}: {error}") from error
    libc = _libc()
    os.chdir(root)
    _check(libc.pivot_root(b".", b"."), "cannot change to the root of the host")
    _check(libc.umount2(b".", MNT_DETACH), "cannot leave the root of the machine")
    os.chdir("/")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if spec.systemd:
        # The variable tells it that devices and cgroups are there already, and not its to change.
        os.execve("/lib/systemd/systemd", ["systemd"], {"PATH": path, "container": "flowferry"})
    os.execve("/bin/sh", ["sh", "-c", BOOT], {"PATH": path, "HOME": "/root"})


def _choose_units(root: Path) -> None:
    """Have systemd start sshd, and none of what packages of the root would have started."""
    for wanted in (root / "etc/systemd/system").glob("*.target.wants/*"):
        if wanted.name not in STARTED_UNITS:
            wanted.unlink()
    _write(root / "etc/machine-id", uuid.uuid4().hex + "\n", 0o444)


def _detach(spec: HostSpec) -> None:
    os.setsid()
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir("/")


def _launch(spec: HostSpec, report: int) -> NoReturn:
    """In a child of the module: make the namespaces, then fork the init into them."""
    try:
        _detach(spec)
        join_cgroups(spec.cgroup)
        _check(_libc().unshare(NEW_NAMESPACES), "cannot make namespaces (are you root?)")
        pid = os.fork()
        if pid == 0:
            _become_init(spec)
        os.write(report, f"pid {pid}\n".encode())
        os._exit(0)
    except BaseException as error:  # nothing above would report it
        os.write(report, f"error {error}\n".encode())
        os._exit(1)


# --- the host, from outside ------------------------------------------------------------------


class Host:
    """A host of the lab, running or not."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec

    @property
    def _record(self) -> Path:
        return self.spec.directory / "host.json"

    def record(self) -> dict[str, Any]:
        """What ``start`` wrote about the running host; empty when none runs."""
        try:
            kept: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
            if start_time(kept["pid"]) == kept["started"]:
                return kept
        except (OSError, ValueError, KeyError):
            pass
        return {}

    @property
    def pid(self) -> int | None:
        return self.record().get("pid")

    def differences(self) -> list[str]:
        """What stands between this host and its description, in words."""
        record = self.record()
        if not record:
            return ["not running"]
        wanted = self.spec.identity()
        changed = sorted(k for k in wanted if record["spec"].get(k) != wanted[k])
        if changed:
            return [f"started with other {', '.join(changed)}"]
        return [text for _interface, text in self._link_differences(record["pid"])]

    def _link_differences(self, pid: int) -> list[tuple[Interface | Management, str]]:
        present = interfaces_of(pid)
        found: list[tuple[Interface | Management, str]] = []
        management = self.spec.management
        if management:
            problem = _link_problem(
                present, management.interface, management.mac, [management.address]
            )
            if problem or management.bridge not in interfaces_of(None):
                found.append((management, problem or f"no bridge {management.bridge}"))
        for interface in self.spec.interfaces:
            problem = _link_problem(
                present, interface.name, interface.mac, interface.address, interface.mtu
            )
            if problem:
                found.append((interface, problem))
        return found

    def start(self, timeout: float = 20.0) -> None:
        """Start the host, or restart it when it was started with another description."""
        self._validate()
        record = self.record()
        if record and record["spec"] != self.spec.identity():
            self.stop()
            record = {}
        if not record:
            self.stop()  # the remains of a host that died
            self._boot()
        with lab_lock(self.spec.state_directory):
            self._connect()
        if self.spec.management:
            self._wait_for_ssh(self.spec.management.address.partition("/")[0], timeout)

    def _validate(self) -> None:
        if os.geteuid() != 0:
            raise LabError("Starting lab hosts needs root: namespaces and mounts are made.")
        for layer in self.spec.layers:
            if not Path(layer).is_dir():
                raise LabError(
                    f"The root {layer} of host {self.spec.name} is missing; "
                    "run the role flowferry.core.lab_root first."
                )
            if ":" in layer or "," in layer:
                raise LabError(f"The root {layer} has a ':' or ',' in its path; overlay cannot.")
        if not self.spec.layers:
            raise LabError(f"Host {self.spec.name} has no layers; name the lab's root.")
        for name in (self.spec.host_key, self.spec.authorized_keys):
            if not Path(name).is_file():
                raise LabError(f"The key file {name!r} of host {self.spec.name} is missing.")
        if self.spec.management and len(self._bridge_port) > INTERFACE_NAME_LIMIT:
            raise LabError(
                f"'{self._bridge_port}' is too long for an interface; choose a shorter host name."
            )

    def _boot(self) -> None:
        create_cgroups(self.spec.cgroup)
        (self.spec.directory / "root").mkdir(parents=True, exist_ok=True)
        receive, report = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            _launch(self.spec, report)
        os.close(report)
        with os.fdopen(receive, encoding="utf-8") as stream:
            lines = stream.read().splitlines()  # ends when the init is executed, or fails
        os.waitpid(child, 0)
        said = {key: value for key, _, value in (line.partition(" ") for line in lines)}
        if "error" in said or "pid" not in said:
            raise LabError(f"Host {self.spec.name}: {said.get('error', 'did not start')}")
        pid = int(said["pid"])
        started = start_time(pid)
        if not started:
            raise LabError(self._boot_failure())
        kept = {"pid": pid, "started": started, "spec": self.spec.identity()}
        _write(self._record, json.dumps(kept, indent=1, sort_keys=True), 0o600)

    def _boot_failure(self) -> str:
        log = self.spec.log.read_text(errors="replace").strip() if self.spec.log.exists() else ""
        return f"Host {self.spec.name} ended while it started. {self.spec.log} says: {log or '-'}"

    def _wait_for_ssh(self, address: str, timeout: float) -> None:
        def answers() -> bool:
            if not self.record():
                raise LabError(self._boot_failure())
            try:
                with socket.create_connection((address, 22), timeout=1) as connection:
                    return connection.recv(4) == b"SSH-"
            except OSError:
                return False

        wait_until(
            answers,
            timeout,
            lambda: (
                f"sshd of host {self.spec.name} does not answer at {address} within {timeout:g} s; "
                f"see /var/log/sshd.log of the host and {self.spec.log}."
            ),
        )

    # --- cables ---

    @property
    def _bridge_port(self) -> str:
        return f"{self.spec.management.bridge}-{self.spec.name}" if self.spec.management else ""

    def _connect(self) -> None:
        pid = self.pid
        if pid is None:
            raise LabError(self._boot_failure())
        run("ip", "link", "set", "lo", "up", netns=pid)
        for link, _problem in self._link_differences(pid):
            if isinstance(link, Management):
                self._connect_management(link, pid)
            else:
                self._connect_interface(link, pid)

    def _connect_management(self, link: Management, pid: int) -> None:
        if link.bridge not in interfaces_of(None):
            run("ip", "link", "add", link.bridge, "type", "bridge")
            run("ip", "address", "add", link.bridge_address, "dev", link.bridge)
            run("ip", "link", "set", link.bridge, "up")
        if link.interface in interfaces_of(pid):
            run("ip", "link", "delete", link.interface, netns=pid)
        port = self._bridge_port
        run(
            *("ip", "link", "add", port, "type", "veth"),
            *("peer", "name", link.interface, "address", link.mac, "netns", str(pid)),
        )
        run("ip", "link", "set", port, "master", link.bridge, "up")
        run("ip", "address", "add", link.address, "dev", link.interface, netns=pid)
        run("ip", "link", "set", link.interface, "up", netns=pid)

    def _connect_interface(self, link: Interface, pid: int) -> None:
        peer = Host(HostSpec(link.peer_host, self.spec.lab, self.spec.state_directory)).pid
        if peer is None:
            raise LabError(
                f"{link.name} of host {self.spec.name} leads to host {link.peer_host}, "
                "which does not run; start that one first."
            )
        for namespace, name in ((pid, link.name), (peer, link.peer_interface)):
            if name in interfaces_of(namespace):
                run("ip", "link", "delete", name, netns=namespace)
        run(
            *("ip", "link", "add", link.name, *(("address", link.mac) if link.mac else ())),
            *("mtu", str(link.mtu), "type", "veth"),
            *("peer", "name", link.peer_interface, "mtu", str(link.mtu), "netns", str(peer)),
            netns=pid,
        )
        for address in link.address:
            # Addresses of a lab are nobody else's: IPv6 need not wait to find that out.
            at_once = ["nodad"] if ":" in address else []
            run("ip", "address", "add", address, "dev", link.name, *at_once, netns=pid)
        run("ip", "link", "set", link.peer_interface, "up", netns=peer)
        run("ip", "link", "set", link.name, "up", netns=pid)
        for gateway in link.gateway:
            run("ip", "route", "replace", "default", "via", gateway, "dev", link.name, netns=pid)

    # --- the end ---

    def remains(self) -> list[str]:
        """What of the host is there; empty when nothing is."""
        spec = self.spec
        found = ["process"] if self.record() or cgroup_processes(spec.cgroup) else []
        if any((hierarchy.path / spec.cgroup).exists() for hierarchy in every_hierarchy()):
            found.append("cgroup")
        if self._bridge_port and self._bridge_port in interfaces_of(None):
            found.append("interface")
        if spec.directory.exists():
            found.append("files")
        return found

    def stop(self, timeout: float = 10.0) -> None:
        """End the host and everything it left; the last one takes the bridge with it."""
        cgroup = self.spec.cgroup

        def ended() -> bool:
            thaw_cgroups(cgroup)
            pids = set(cgroup_processes(cgroup))
            pid = self.pid
            for target in pids | ({pid} if pid else set()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
            return not pids and pid is None

        wait_until(
            ended,
            timeout,
            lambda: f"Host {self.spec.name} does not end; left: {cgroup_processes(cgroup)}.",
        )
        remove_cgroups(cgroup, timeout)
        with lab_lock(self.spec.state_directory):
            self._disconnect()
        shutil.rmtree(self.spec.directory, ignore_errors=True)

    def _disconnect(self) -> None:
        # The kernel ends the namespace's interfaces in its own time; ours must be gone now.
        present = interfaces_of(None)
        if self._bridge_port in present:
            with contextlib.suppress(LabError):  # the kernel was faster
                run("ip", "link", "delete", self._bridge_port)
        bridge = self.spec.management.bridge if self.spec.management else ""
        if bridge in present and not json.loads(run("ip", "-j", "link", "show", "master", bridge)):
            run("ip", "link", "delete", bridge)


def interfaces_of(pid: int | None) -> dict[str, dict[str, Any]]:
    """Interfaces with their addresses, of the namespace of a process or of this one."""
    listed = json.loads(run("ip", "-j", "address", "show", netns=pid) or "[]")
    return {entry["ifname"]: entry for entry in listed if entry}


def _link_problem(
    present: dict[str, dict[str, Any]],
    name: str,
    mac: str,
    addresses: Sequence[str],
    mtu: int | None = None,
) -> str:
    """What is wrong with an interface; an empty string when it is as it should be."""
    entry = present.get(name)
    if entry is None:
        return f"no interface {name}"
    if "UP" not in entry["flags"]:
        return f"interface {name} is down"
    if mac and entry.get("address") != mac.lower():
        return f"interface {name} has not the address {mac}"
    if mtu and entry.get("mtu") != mtu:
        return f"interface {name} has not the MTU {mtu}"
    own = [f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", [])]
    for address in addresses:
        if str(ipaddress.ip_interface(address)) not in own:
            return f"interface {name} has not the address {address}"
    return ""
