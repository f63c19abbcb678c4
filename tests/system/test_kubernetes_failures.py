# SPDX-License-Identifier: Apache-2.0
"""Whatever fails while a pod moves, one pod serves its connections, and nothing else is left."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.plugin_utils.migration.cluster import Cluster
from cluster import ClusterLab, left_over

from demo.kubectl import BUILD_LIMIT
from demo.lab_control import NODES, ROOT, Played, wait_for
from demo.traffic import TrafficClient

pytestmark = pytest.mark.timeout(BUILD_LIMIT + 300)  # whichever test is first waits for the build
Clients = list[TrafficClient]


class Watch:
    """Redis as it was before a move that fails, and whether it is so still."""

    def __init__(self, cluster: ClusterLab, clients: Clients) -> None:
        self.cluster = cluster
        self.clients = clients
        self.run_id = cluster.run_id()
        self.pod = cluster.pod()
        self.source = cluster.pod_node()
        self.destination = cluster.other_node()

    def fail(self, fault: str = "") -> Played:
        """A move with a fault."""
        return self.cluster.move(self.destination, FLOWFERRY_FAULT=fault)

    def serves(self, node: str) -> None:
        """One Redis, the same one, with all its connections."""
        assert [client.seen()["errors"] for client in self.clients] == [[], [], []]
        assert self.cluster.run_id() == self.run_id
        wait_for(lambda: self.cluster.processes()[self._other(node)] == 0, "one Redis runs", 30)
        assert self.cluster.processes()[node] == 1

    def unmoved(self) -> None:
        """The source serves on, and of the move nothing is left."""
        self.serves(self.source)
        self.nothing_is_left()
        assert self.cluster.pod()["metadata"]["uid"] == self.pod["metadata"]["uid"]
        # Its runtime takes it for running as well, or no probe of that kind would succeed.
        name = self.pod["metadata"]["name"]
        self.cluster.kubectl("exec", name, "--", "redis-server", "--version")

    def moved(self) -> None:
        """The copy serves, and nothing else is left."""
        self.serves(self.destination)
        self.nothing_is_left()
        assert self.cluster.pod_node() == self.destination

    def either(self, played: Played, code: str) -> None:
        """It came in time to be harmless, or it did not."""
        if played.returncode == 0:
            self.moved()
        else:
            assert played.failure["code"] == code, played.outcome
            self.unmoved()

    def nothing_is_left(self) -> None:
        """A kubelet needs a moment to take away what is not in the cluster any more."""
        found: dict[str, str] = {}

        def gone() -> bool:
            found.clear()
            found.update(self.cluster.leftovers())
            return not found

        try:
            wait_for(gone, "nothing is left", 60)
        except AssertionError as error:
            raise AssertionError(f"left behind: {found}") from error

    @staticmethod
    def _other(node: str) -> str:
        return next(name for name in NODES if name != node)


@pytest.fixture
def watch(cluster: ClusterLab, clients: Clients) -> Watch:
    return Watch(cluster, clients)


# -- refused before anything is held


def test_a_destination_without_its_kubelet_is_refused(watch: Watch) -> None:
    """At once by the connection; later, as the API server has noticed, by the node's state."""
    cluster, node = watch.cluster, watch.destination
    with cluster.started_again(node, "kubelet") as stop:
        subprocess.run(stop, shell=True, check=True)
        code = cluster.move(node).failure["code"]
        # On a machine that is so busy that the API server notices before the move gets there:
        noticed = _ready(cluster, node) != "True"
        assert code == "kubelet_unreachable" or (noticed and code == "node_not_ready")
        lost = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        status = json.dumps({"status": {"conditions": [lost]}})
        cluster.kubectl("patch", "node", node, "--subresource=status", f"--patch={status}")
        assert cluster.move(node).failure["code"] == "node_not_ready"
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=50s")
    watch.unmoved()


def _ready(cluster: ClusterLab, node: str) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "node", node, f"--output=jsonpath={path}").strip()


def test_a_cordoned_destination_is_refused(watch: Watch) -> None:
    watch.cluster.kubectl("cordon", watch.destination)
    try:
        played = watch.fail()
    finally:
        watch.cluster.kubectl("uncordon", watch.destination)
    assert played.failure["code"] == "node_not_ready"


def test_an_image_that_cannot_be_pulled_is_missed_before_the_hold(watch: Watch) -> None:
    """The destination has lost it, and the registry is down."""
    cluster = watch.cluster
    (status,) = watch.pod["status"]["containerStatuses"]
    # A restored container shows another image than it was made of at first.
    kept = json.loads(watch.pod["metadata"]["annotations"].get("flowferry.io/images", "{}"))
    image = kept.get(status["name"], {}).get("reference") or status["imageID"]
    cluster.forget_image(watch.destination, image)
    with cluster.started_again("control", "registry") as stop:
        subprocess.run(stop, shell=True, check=True)
        played = watch.fail()
    assert played.failure["code"] == "no_image"
    watch.unmoved()


def test_a_copy_that_the_api_server_refuses_is_not_made(watch: Watch) -> None:
    cluster = watch.cluster
    cluster.kubectl("create", "quota", "one", "--hard=pods=1")
    try:
        wait_for(
            lambda: "pods" in cluster.kubectl("get", "quota", "one", "-o", "jsonpath={.status}"),
            "the quota is in force",
            30,
        )
        played = watch.fail()
    finally:
        cluster.kubectl("delete", "quota", "one")
    assert played.failure["code"] == "kubernetes_refused"
    assert "exceeded quota" in played.failure["message"]
    watch.unmoved()


# -- in the middle


@pytest.mark.each_runtime
@pytest.mark.parametrize(("end", "code"), [("source", "checkpoint"), ("destination", "restore")])
def test_criu_refuses(watch: Watch, end: str, code: str) -> None:
    """It refuses established connections, as when its settings are missing on a node."""
    node = {"source": watch.source, "destination": watch.destination}[end]
    watch.cluster.run(node, "mv /etc/criu/runc.conf /etc/criu/runc.conf.away")
    try:
        played = watch.fail()
    finally:
        watch.cluster.run(node, "mv /etc/criu/runc.conf.away /etc/criu/runc.conf")
    assert played.failure["code"] == f"{code}_failed"
    watch.unmoved()


def test_the_kubelet_of_the_source_is_started_again_while_it_checkpoints(watch: Watch) -> None:
    """Whether it came to an end or not: one of the two serves."""
    with watch.cluster.started_again(watch.source, "kubelet"):
        restart = watch.cluster.daemon(watch.source, "kubelet", "restart")
        played = watch.fail(f"hold:(sleep 0.06; exec {restart}) >/dev/null 2>&1 &")
    watch.either(played, "checkpoint_failed")


def test_the_kubelet_of_the_destination_ends(watch: Watch) -> None:
    """It asks the runtime for the restore, which does not come without it."""
    with watch.cluster.started_again(watch.destination, "kubelet") as stop:
        played = watch.fail(f"prepare:{stop}")
    assert played.failure["code"] == "restore_failed", played.outcome
    assert f"kubelet on {watch.destination} does not answer" in played.failure["message"]
    watch.unmoved()


def test_the_kubelet_of_the_destination_is_started_again(watch: Watch) -> None:
    """It may be back in time, and ask for the restore anew."""
    with watch.cluster.started_again(watch.destination, "kubelet"):
        restart = watch.cluster.daemon(watch.destination, "kubelet", "restart")
        played = watch.fail(f"transfer:{restart}")
    watch.either(played, "restore_failed")


def test_neither_the_registry_nor_the_kubelet_of_the_source_is_needed_to_the_end(
    watch: Watch,
) -> None:
    cluster = watch.cluster
    with (
        cluster.started_again("control", "registry") as end_registry,
        cluster.started_again(watch.source, "kubelet") as end_kubelet,
    ):
        subprocess.run(end_registry, shell=True, check=True)
        watch.fail(f"checkpoint:{end_kubelet}").must_succeed()
        watch.serves(watch.destination)
    watch.moved()


def test_a_move_that_lost_the_api_server_is_finished_later(watch: Watch) -> None:
    with watch.cluster.started_again("control", "kube-apiserver") as stop:
        played = watch.fail(f"checkpoint:{stop}").must_succeed()
        (warning,) = left_over(played.outcome)
        assert "the API server does not answer" in warning
        assert [client.seen()["errors"] for client in watch.clients] == [[], [], []]
    again = watch.cluster.move(watch.destination).must_succeed()
    assert again.outcome["recovered"] == "finished"
    watch.moved()


def test_a_rollback_that_lost_the_api_server_is_finished_later(watch: Watch) -> None:
    """The source serves at once; only the copy's pod waits for the API server."""
    cluster, settings = watch.cluster, "/etc/criu/runc.conf"
    with cluster.started_again("control", "kube-apiserver") as stop:
        break_criu = shlex.join(cluster.ssh(watch.source, f"mv {settings} {settings}.away"))
        try:
            played = watch.fail(f"prepare:{stop} && {break_criu}")
        finally:
            cluster.run(watch.source, f"mv {settings}.away {settings}")
        assert played.failure["code"] == "kubernetes_unreachable"
        assert "The source serves on" in played.failure["message"]
        watch.serves(watch.source)
    again = cluster.move(watch.destination).must_succeed()
    assert again.outcome["recovered"] == "rolled back"
    # Its kubelet may hear late that the source was deleted, since it had lost the API server, too.
    assert not left_over(again.outcome)
    watch.moved()


def test_the_helper_that_serves_the_image_dies(watch: Watch) -> None:
    played = watch.fail("prepare:destination")
    assert played.failure["code"] == "helper_lost"
    watch.serves(watch.source)
    again = watch.cluster.move(watch.source).must_succeed()
    assert again.outcome["recovered"] == "rolled back"
    watch.unmoved()


@pytest.mark.parametrize("phase", ["checkpoint", "redirect"])
def test_after_the_death_of_the_keeper_another_run_ends_it(watch: Watch, phase: str) -> None:
    """Before the commit it rolls back and moves anew, after it it finishes."""
    assert watch.fail(f"{phase}:keeper").failure["code"] == "keeper_lost"
    again = watch.fail().must_succeed()
    recovered = {"checkpoint": "rolled back", "redirect": "finished"}[phase]
    assert again.outcome["recovered"] == recovered
    watch.moved()


def test_the_death_of_the_playbook_takes_the_move_back(watch: Watch) -> None:
    """The keeper is a child of a worker of the playbook's, and a session of its own."""
    worker = "worker=$(ps -o ppid= -p $PPID)"
    played = watch.fail(f"checkpoint:{worker}; kill -9 $(ps -o ppid= -p $worker) $worker")
    assert played.returncode != 0 and not played.outcome
    wait_for(lambda: not watch.cluster.journals(), "the keeper has rolled back", 30)
    watch.unmoved()


# -- rights


def _role() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "rbac.yml").read_text())
    role = next(one for one in documents if one["kind"] == "ClusterRole")
    rights = [
        (verb, resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    return role, rights


def _without(verb: str, resource: str) -> list[dict[str, Any]]:
    """The rules of deploy/rbac.yml but for one right."""
    kept = []
    for rule in _role()[0]["rules"]:
        for one in rule["resources"]:
            verbs = [v for v in rule["verbs"] if (v, one) != (verb, resource)]
            if verbs:
                kept.append({**rule, "resources": [one], "verbs": verbs})
    return kept


@pytest.fixture(scope="module")
def identities(
    cluster: ClusterLab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], str]]:
    """A kubeconfig for each right, of somebody who has all the others. New ones: a kubelet
    remembers for minutes what somebody may do."""
    directory = tmp_path_factory.mktemp("identities")
    names = {right: f"without-{number}" for number, right in enumerate([("", ""), *_role()[1]])}
    items = [one for right, name in names.items() for one in _identity(name, _without(*right))]
    manifest = directory / "identities.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.kubectl("apply", "-f", str(manifest))
    admin = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    found = {}
    for right, name in names.items():
        token = cluster.kubectl("create", "token", name).strip()
        told = {**admin, "users": [{"name": admin["users"][0]["name"], "user": {"token": token}}]}
        file = directory / name
        file.write_text(json.dumps(told))
        found[right] = str(file)
    yield found
    cluster.kubectl("delete", "-f", str(manifest))


def _identity(name: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    metadata = {"name": name}
    who = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {**metadata, "namespace": "default"},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": rules,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [who],
        },
    ]


@pytest.mark.parametrize("right", _role()[1], ids=" ".join)
def test_a_plan_without_a_right_is_refused(
    identities: dict[tuple[str, str], str], right: tuple[str, str]
) -> None:
    said = rf"may not {' '.join(right)}[ .].*rbac.yml"
    with pytest.raises(FlowferryError, match=said) as refused:
        Cluster(identities[right]).require_rights("default")
    assert refused.value.code == "rights_missing"


def test_the_kubelet_asks_for_the_right_to_checkpoint(
    cluster: ClusterLab, identities: dict[tuple[str, str], str]
) -> None:
    node, pod = cluster.pod_node(), cluster.pod()["metadata"]["name"]
    session = Cluster(identities["create", "nodes/checkpoint"])
    session.connect_kubelet(session.node(node))
    with pytest.raises(FlowferryError, match=r"403.*nodes/checkpoint") as refused:
        session.checkpoint(node, "default", pod, "redis")
    assert refused.value.code == "checkpoint_failed"


def test_with_these_rights_alone_and_a_token_a_pod_moves(
    watch: Watch, identities: dict[tuple[str, str], str]
) -> None:
    """Without one of them the playbook says so, and moves nothing."""
    for right, succeeds in ((("patch", "pods"), False), (("", ""), True)):
        played = watch.cluster.playbook(
            "migrate.yml",
            workload="pod:default/redis",
            destination=watch.destination,
            migration_method="kubelet",
            migration_kubeconfig=identities[right],
        )
        assert (played.returncode == 0) == succeeds, played.outcome
        if not succeeds:
            assert played.failure["code"] == "rights_missing"
            watch.unmoved()
    watch.moved()
