# SPDX-License-Identifier: Apache-2.0
"""Container runtimes of nodes: which one it is, and what CRI-O's files and answers mean.

The files are as CRI-O 1.37 writes them, the answers as crictl 1.37 and CRI-O give them.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import socketserver
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.certificates import (
    one_time_certificates,
)
from ansible_collections.flowferry.core.plugins.module_utils.cri import crio, found, kubelet_process
from ansible_collections.flowferry.core.plugins.module_utils.cri.base import Container
from ansible_collections.flowferry.core.plugins.module_utils.cri.containerd import Containerd
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci.blobs import digest_of

UID = "d67d46e0-113a-4d67-a396-b5bda7767c01"
CHECKPOINT = "127.0.0.1:34511/flowferry-checkpoint/redis:restore"
REDIS = "registry.example:5000/redis"
SETTINGS = """
[crio]
  root = "{0}/lib"
  runroot = "{0}/run"
  imagestore = ""
  storage_driver = "overlay"
  [crio.runtime]
    enable_criu_support = true
  [crio.checkpoint_restore]
    container_level_enabled = "checkpoint_restore"
"""


class Crictl:
    """Answers as crictl does, and remembers what was asked of it."""

    def __init__(self, images: list[dict[str, Any]]) -> None:
        self.images = images
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], **_others: Any) -> str:
        words = command[command.index("--timeout") + 2 :]
        self.asked.append(words)
        if words[0] != "images":
            return ""
        wanted = words[3] if len(words) > 3 else None
        shown = [
            image
            for image in self.images
            if wanted in (None, *image["repoTags"], *image["repoDigests"])
        ]
        return json.dumps({"images": shown} if shown else {})


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> crio.Crio:
    made = crio.Crio(str(tmp_path / "none.sock"))
    monkeypatch.setitem(made.__dict__, "_settings", SETTINGS.format(tmp_path))
    monkeypatch.setattr(crio, "REGISTRIES", tmp_path / "certs.d")
    monkeypatch.setattr(crio, "kubelet_root", lambda: str(tmp_path / "kubelet"))
    monkeypatch.setattr(crio.shutil, "which", lambda name: f"/usr/bin/{name}")
    return made


def write_container(directory: Path, identity: str, kind: str, pid: int | None) -> Path:
    bundle = directory / "run/overlay-containers" / identity / "userdata"
    bundle.mkdir(parents=True)
    labels = {
        "io.kubernetes.container.name": "redis",
        "io.kubernetes.pod.name": "redis-moved",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": UID,
    }
    annotations = {
        "io.kubernetes.cri-o.ContainerType": kind,
        "io.kubernetes.cri-o.Labels": json.dumps(labels),
        "io.kubernetes.cri-o.Image": "3e016dc1b274",
        # What the checkpoint brought along.
        "io.kubernetes.pod.name": "redis",
    }
    source = f"/var/lib/kubelet/pods/{UID}/containers/redis/08309105"
    mounts = [{"destination": "/dev/termination-log", "source": source}]
    spec = {"annotations": annotations, "mounts": mounts if kind == "container" else []}
    (bundle / "config.json").write_text(json.dumps(spec))
    if pid is not None:
        (bundle / "pidfile").write_text(str(pid))
    return bundle


def write_image(
    directory: Path, identity: str, command: tuple[str, ...] = (), **manifest: Any
) -> None:
    place = directory / "lib/overlay-images" / identity
    place.mkdir(parents=True)
    told = {"Labels": {"a": "b"}, **({"Cmd": list(command)} if command else {})}
    config = {"config": told, "rootfs": {"diff_ids": ["sha256:1"]}}
    digest = f"sha256:{identity}"
    name = "=" + base64.b64encode(digest.encode()).decode()
    (place / name).write_text(json.dumps(config))
    manifest.setdefault("layers", [{"digest": "sha256:layer", "size": 7}])
    manifest["config"] = {"digest": digest, "size": 1, "mediaType": "config"}
    (place / "manifest").write_text(json.dumps(manifest))


def image(identity: str, tags: list[str], digests: list[str]) -> dict[str, Any]:
    return {"id": identity, "repoTags": tags, "repoDigests": digests, "size": "1"}


class TestWhichRuntime:
    def test_the_kubelet_is_asked_and_who_listens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(found, "runtime_socket", lambda: "/run/some.sock")
        for program, kind in (("containerd", Containerd), ("crio", crio.Crio)):
            monkeypatch.setattr(found, "served_by", lambda path, program=program: program)
            assert type(found.container_runtime()) is kind

    def test_another_one_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(found, "runtime_socket", lambda: "/run/cri-dockerd.sock")
        monkeypatch.setattr(found, "served_by", lambda path: "cri-dockerd")
        with pytest.raises(FlowferryError, match="cri-dockerd at /run/") as raised:
            found.container_runtime()
        assert raised.value.code == "runtime_cannot_restore"

    def test_the_listener_of_a_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "it"))
            listening.listen()
            comm = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
            assert found.served_by(str(tmp_path / "it")) == comm
        with pytest.raises(FlowferryError, match="does not answer"):
            found.served_by(str(tmp_path / "it"))

    @pytest.mark.parametrize(
        ("options", "settings", "socket_path"),
        [
            ([], "kind: KubeletConfiguration\n", kubelet_process.ENDPOINT),
            ([], "containerRuntimeEndpoint: unix:///run/crio/crio.sock\n", "/run/crio/crio.sock"),
            ([], '{"containerRuntimeEndpoint": "unix:///run/a.sock"}', "/run/a.sock"),
            (
                ["--container-runtime-endpoint=unix:///b"],
                "containerRuntimeEndpoint: unix:///c",
                "/b",
            ),
            (["--container-runtime-endpoint", "unix:///d"], "", "/d"),
        ],
    )
    def test_the_socket_of_the_kubelet(
        self,
        options: list[str],
        settings: str,
        socket_path: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        config = tmp_path / "kubelet.yaml"
        config.write_text(settings)
        command = ["/usr/bin/kubelet", f"--config={config}", "--root-dir=/elsewhere", *options, ""]
        monkeypatch.setattr(kubelet_process, "_command", lambda: command)
        assert kubelet_process.runtime_socket() == socket_path
        assert kubelet_process.kubelet_root() == "/elsewhere"

    def test_a_host_without_a_kubelet_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kubelet_process, "_command", list)
        with pytest.raises(FlowferryError, match="there is no kubelet here"):
            kubelet_process.runtime_socket()


class TestCrioRestores:
    @pytest.mark.parametrize(
        ("settings", "restores"),
        [
            ('container_level_enabled = "checkpoint_restore"', True),
            ('enable_criu_support = true\ncontainer_level_enabled = "checkpoint_only"', False),
            ('enable_criu_support = true\ncontainer_level_enabled = "none"', False),
            ("enable_criu_support = true", True),
            ("enable_criu_support = false", False),
            ("", False),
        ],
    )
    def test_only_with_the_setting_of_its_version(
        self, runtime: crio.Crio, settings: str, restores: bool
    ) -> None:
        runtime.__dict__["_settings"] = settings
        if restores:
            runtime.require()
            return
        with pytest.raises(FlowferryError, match="container_level_enabled") as raised:
            runtime.require()
        assert raised.value.code == "runtime_cannot_restore"

    def test_only_with_its_client(
        self, runtime: crio.Crio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crio.shutil, "which", lambda name: None)
        with pytest.raises(FlowferryError, match="no crictl"):
            runtime.require()


class TestCrioContainers:
    def test_of_a_pod(
        self, runtime: crio.Crio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_container(tmp_path, "5a4d", "sandbox", None)
        write_container(tmp_path, "c0ffee", "container", os.getpid())
        # The process is in the container's cgroup.
        real = Path.read_text
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, *rest, **more: (
                "6:freezer:/crio/crio-c0ffee\n"
                if str(path) == f"/proc/{os.getpid()}/cgroup"
                else real(path, *rest, **more)
            ),
        )
        listed = {one.id: one for one in runtime.containers_of(UID)}
        assert listed["5a4d"].is_sandbox and listed["5a4d"].pid == 0
        assert (listed["c0ffee"].name, listed["c0ffee"].pid) == ("redis", os.getpid())
        assert listed["c0ffee"].lives and not listed["c0ffee"].is_sandbox
        assert runtime.containers_of("another") == []

    def test_the_number_of_a_process_that_has_ended_is_not_another_ones(
        self, runtime: crio.Crio, tmp_path: Path
    ) -> None:
        write_container(tmp_path, "c0ffee", "container", os.getpid())
        (container,) = runtime.containers_of(UID)
        assert container.pid == 0 and not container.lives

    def test_one_that_is_being_made_is_not_there_yet(
        self, runtime: crio.Crio, tmp_path: Path
    ) -> None:
        bundle = write_container(tmp_path, "c0ffee", "container", None)
        whole = (bundle / "config.json").read_text()
        (bundle / "config.json").write_text(whole[:40])
        assert runtime.containers_of(UID) == []
        (bundle / "config.json").write_text(whole)
        assert len(runtime.containers_of(UID)) == 1

    def test_an_archive_is_known_by_its_container_and_time(
        self, runtime: crio.Crio, tmp_path: Path
    ) -> None:
        """The name of another container may begin as this one's does."""
        write_container(tmp_path, "c0ffee", "container", None)
        mark = Path(runtime.dump_mark(runtime.containers_of(UID)[0]))
        assert mark.parent == tmp_path / "kubelet/checkpoints"
        for other in ("redis-beside", "redis-2"):
            name = f"checkpoint-redis-moved_default-{other}-2026-11-25T08:55:44Z.tar"
            assert not Path(name).match(mark.name)
        for time_zone in ("Z", "+01:00", "-03:30"):
            name = f"checkpoint-redis-moved_default-redis-2026-11-25T08:55:44{time_zone}.tar"
            assert Path(name).match(mark.name)

    def test_it_is_told_when_a_container_goes_on(
        self, runtime: crio.Crio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CRI-O refuses (409) when it has not seen it frozen."""
        done: list[str] = []
        monkeypatch.setattr(crio.Freezer, "thaw", lambda freezer: done.append("thaw"))
        about = {"id": "c0ffee", "freezer": str(tmp_path / "none"), "dumped": ""}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                done.append(self.path)
                self.send_error(409)

            def address_string(self) -> str:
                return "here"

        runtime.socket = str(tmp_path / "crio.sock")
        with socketserver.UnixStreamServer(runtime.socket, Handler) as server:
            answering = threading.Thread(target=server.handle_request, daemon=True)
            answering.start()
            runtime.resume([about])
            answering.join(10)
        assert done == ["/unpause/c0ffee", "thaw"]

    def test_without_crio_a_container_goes_on_all_the_same(
        self, runtime: crio.Crio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        thawed: list[str] = []
        monkeypatch.setattr(crio.Freezer, "thaw", lambda freezer: thawed.append(str(freezer.path)))
        del runtime.__dict__["_settings"]  # so that it would have to tell them
        freezers = [str(tmp_path / "one"), str(tmp_path / "two")]
        runtime.resume([{"id": one, "freezer": one, "dumped": ""} for one in freezers])
        assert thawed == freezers

    def test_a_dump_for_nobody_is_waited_for(
        self, runtime: crio.Crio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kubelet that ends in the middle lets CRI-O go on alone."""
        thawed = threading.Event()
        monkeypatch.setattr(crio.Freezer, "thaw", lambda freezer: thawed.set())
        about = {"id": "c0ffee", "freezer": str(tmp_path / "none"), "dumped": ""}
        images = tmp_path / "lib/overlay-containers/c0ffee/userdata/checkpoint"
        images.mkdir(parents=True)
        resuming = threading.Thread(target=runtime.resume, args=([about],))
        resuming.start()
        assert not thawed.wait(0.05)
        images.rmdir()
        resuming.join(10)
        assert thawed.is_set()

    def test_where_criu_says_why_it_dumps_nothing(self, runtime: crio.Crio, tmp_path: Path) -> None:
        log = runtime.dump_log({"id": "c0ffee"})
        assert log == tmp_path / "lib/overlay-containers/c0ffee/userdata/dump.log"


class TestCrioImages:
    @pytest.fixture
    def crictl(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crictl:
        base = image("ba5e", [f"{REDIS}:lab"], [f"{REDIS}@sha256:b97f"])
        told = Crictl([base, image("c4ec", [CHECKPOINT], ["127.0.0.1:34511/x@sha256:d4"])])
        write_image(tmp_path, "ba5e")
        write_image(tmp_path, "c4ec", annotations={crio.CRIO_ANNOTATION: "redis"})
        listed = tmp_path / "lib/overlay-containers"
        listed.mkdir(parents=True)
        (listed / "volatile-containers.json").write_text(json.dumps([{"image": "ba5e"}]))
        monkeypatch.setattr(crio, "run", told)
        return told

    def test_what_is_here(self, runtime: crio.Crio, crictl: Crictl) -> None:
        assert runtime.has_image(f"{REDIS}@sha256:b97f")
        assert not runtime.has_image(f"{REDIS}@sha256:c000")

    @pytest.mark.parametrize("known_by", ["ba5e", f"{REDIS}:lab", f"{REDIS}@sha256:b97f"])
    @pytest.mark.parametrize("command", [(), ("redis-server",)])
    def test_a_container_of_an_image_without_a_command_is_not_restored(
        self,
        runtime: crio.Crio,
        crictl: Crictl,
        tmp_path: Path,
        known_by: str,
        command: tuple[str, ...],
    ) -> None:
        shutil.rmtree(tmp_path / "lib/overlay-images/ba5e")
        write_image(tmp_path, "ba5e", command)
        bundle = write_container(tmp_path, "c0", "container", None)
        container = Container("c0", "redis", "uid", False, 7, known_by, bundle)
        refused = pytest.raises(FlowferryError, match="container redis has neither an ENTRYPOINT")
        with nullcontext() if command else refused:
            runtime.check_restorable(container)

    @pytest.mark.parametrize(
        ("source", "is_own"),
        [
            (f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/memory", False),
            ("/srv/shared", False),
            ("/run/containers/storage/overlay-containers/5a/userdata/shm", True),
            ("/dev/shm", True),
        ],
    )
    def test_a_volume_that_would_not_be_mounted_again_is_refused(
        self, runtime: crio.Crio, crictl: Crictl, tmp_path: Path, source: str, is_own: bool
    ) -> None:
        bundle = write_container(tmp_path, "c0", "container", None)
        told = json.loads((bundle / "config.json").read_text())
        told["mounts"] = [{"destination": "/dev/shm", "source": source, "type": "bind"}]
        (bundle / "config.json").write_text(json.dumps(told))
        container = Container("c0", "redis", "uid", False, 7, "another", bundle)
        refused = pytest.raises(FlowferryError, match="a volume of its pod at /dev/shm")
        with nullcontext() if is_own else refused:
            runtime.check_restorable(container)

    def test_a_checkpoint_is_known_by_its_annotation(
        self, runtime: crio.Crio, crictl: Crictl
    ) -> None:
        assert runtime.checkpoints(CHECKPOINT, "") == {"c4ec", CHECKPOINT}
        assert runtime.checkpoints(f"{REDIS}:lab", "") == set()
        assert runtime.checkpoints("127.0.0.1:1/flowferry-checkpoint/gone:restore", "") == set()

    def test_the_original_has_another_id_and_the_same_layers(
        self, runtime: crio.Crio, crictl: Crictl
    ) -> None:
        made = runtime.original(f"{REDIS}@sha256:b97f", "copy-1")
        manifest = json.loads(made.manifest)
        assert manifest["layers"] == [{"digest": "sha256:layer", "size": 7}]
        (config,) = made.blobs
        assert manifest["config"]["digest"] == config.digest == digest_of(config.data)
        labels = json.loads(config.data)["config"]["Labels"]
        assert labels == {"a": "b", "flowferry.io/copy": "copy-1"}

    def test_the_base_of_a_checkpoint_goes_by_its_id(
        self, runtime: crio.Crio, crictl: Crictl
    ) -> None:
        server: Any = None
        runtime.prepare_base("redis", f"{REDIS}@sha256:b97f", server)
        assert runtime.base_reference("redis", server) == "ba5e"
        with pytest.raises(FlowferryError, match="no image"):
            runtime.prepare_base("redis", f"{REDIS}@sha256:c000", server)

    def test_only_what_is_there_is_removed(self, runtime: crio.Crio, crictl: Crictl) -> None:
        runtime.remove_images(["c4ec", "gone"])
        assert crictl.asked[-1] == ["rmi", "c4ec"]
        runtime.remove_images(["gone"])
        assert crictl.asked[-1][0] == "images"

    def test_what_a_move_left_is_forgotten(
        self, runtime: crio.Crio, crictl: Crictl, tmp_path: Path
    ) -> None:
        """The image of an ended copy by its name, a checkpoint that lost its name by its id."""
        crictl.images.append(image("1057", [], ["127.0.0.1@sha256:d5"]))
        write_image(tmp_path, "1057", annotations={crio.CRIO_ANNOTATION: "redis"})
        crictl.images.append(image("0ther", [], ["127.0.0.1@sha256:d6"]))
        write_image(tmp_path, "0ther")
        runtime.forget([CHECKPOINT, f"{REDIS}:lab"])
        assert crictl.asked[-1] == ["rmi", CHECKPOINT, "1057"]

    def test_an_image_is_not_removed_before_its_containers(
        self, runtime: crio.Crio, crictl: Crictl, tmp_path: Path
    ) -> None:
        listed = tmp_path / "lib/overlay-containers/volatile-containers.json"
        listed.write_text(json.dumps([{"image": "c4ec"}]))
        removing = threading.Thread(target=runtime.forget, args=([CHECKPOINT],), daemon=True)
        removing.start()
        removing.join(0.2)
        assert removing.is_alive() and ["rmi", CHECKPOINT] not in crictl.asked
        listed.write_text("[]")
        removing.join(10)
        assert crictl.asked[-1] == ["rmi", CHECKPOINT]


class TestServing:
    @pytest.fixture
    def serving(self, runtime: crio.Crio) -> Iterator[tuple[Any, Path]]:
        server = runtime.serve(one_time_certificates())
        yield server, crio.REGISTRIES / server.address
        server.close()
        runtime.distrust(server.address)
        assert not (crio.REGISTRIES / server.address).exists()

    def test_crio_finds_what_it_needs_to_pull(self, serving: tuple[Any, Path]) -> None:
        """As it reads them: the address is in the certificate, and it shows its own."""
        server, directory = serving
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        context.load_cert_chain(str(directory / "client.cert"), str(directory / "client.key"))
        with urllib.request.urlopen(f"https://{server.address}/v2/", context=context) as answer:
            assert answer.status == 200
        modes = {
            path.name: path.stat().st_mode & 0o77 for path in [directory, *directory.iterdir()]
        }
        assert set(modes.values()) == {0}

    def test_nobody_else_is_served(self, serving: tuple[Any, Path]) -> None:
        server, directory = serving
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        with pytest.raises(OSError):
            urllib.request.urlopen(f"https://{server.address}/v2/", context=context, timeout=10)
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://{server.address}/v2/", timeout=10)
