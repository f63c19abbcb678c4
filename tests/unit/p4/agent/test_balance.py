# SPDX-License-Identifier: Apache-2.0
"""Services: from objects to service, bucket, backend and reply, and from one state to the next."""

from __future__ import annotations

from collections import Counter

import pytest
from flowferry_p4.agent import Attachment, Cluster, HostPort, Settings, Uplink, cluster
from flowferry_p4.client import Entry
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.p4.agent import kube
from tests.unit.p4.agent.memory_switch import SIZES, MemorySwitch

HERE = Settings("node1", uplink=Uplink(1, "02:ff:00:00:00:11", "02:ff:00:00:00:99"))
NODES = [kube.node("node1"), kube.node("node2")]
VIRTUAL, OTHER = "10.96.0.10", "10.96.0.11"


def attached(*addresses: str) -> list[Attachment]:
    return [Attachment(10 + n, "02:ff:00:00:01:01", (a,)) for n, a in enumerate(addresses)]


def web(*endpoints: kube.Object, **spec: object) -> Cluster:
    return cluster(
        [], NODES, [kube.service("web", VIRTUAL, **spec)], [kube.slice_of("web", *endpoints)]
    )


def codes(known: Cluster) -> list[str]:
    _, wanted = MemorySwitch().pass_over(known, [], HERE)
    return [problem.code for problem in wanted.problems]


def names(switch: MemorySwitch, number: int, table: str = "virtual_address") -> tuple[str, int]:
    """The virtual address and port that answers of a service get."""
    entry = switch.tables.get(Entry(table, {"service_id": number}))
    assert entry, f"no {table} {number}"
    return entry.params["address"], entry.params["port"]


def answered(switch: MemorySwitch, backend: str, port: int = 8080) -> list[tuple[str, int] | None]:
    """What an answer is taken for that the switch has forgotten, inside and outside."""
    key = {"address": backend, "protocol": 6, "port": port}
    entry = switch.tables.get(Entry("reply", key))
    assert entry, f"no reply {backend} port {port}"
    numbers = entry.params["service_id"], entry.params["outside_id"]
    return [names(switch, number) if number else None for number in numbers]


def test_a_service_is_spread_over_its_ready_endpoints() -> None:
    switch = MemorySwitch()
    ends = [kube.endpoint(f"198.19.1.{n}", f"node{n % 2 + 1}") for n in range(1, 6)]
    ends.append(kube.endpoint("198.19.1.9", ready=False))
    switch.pass_over(web(*ends), attached("198.19.1.2", "198.19.1.9"), HERE)
    counts = Counter(switch.backends(VIRTUAL, 80))
    assert sorted(counts) == [f"198.19.1.{n} 8080" for n in range(1, 6)]
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == 251
    replies = {e.match["address"]: e.params for e in switch.tables.of("reply")}
    assert sorted(replies) == [f"198.19.1.{n}" for n in (1, 2, 3, 4, 5, 9)], "wherever they are"
    assert {names(switch, answer["service_id"]) for answer in replies.values()} == {(VIRTUAL, 80)}
    assert {answer["outside_id"] for answer in replies.values()} == {0}
    members = Counter(entry.action for entry in switch.tables.of("member"))
    assert members == {"keep_clients": 5, "keep_flows": 1}
    direct = [e for e in switch.tables.of("service") if e.action == "reach_backend"]
    assert {e.match["address"]: e.params["backend_id"] for e in direct} == {
        address: answer["backend_id"] for address, answer in replies.items()
    }


def test_a_second_pass_has_nothing_to_write() -> None:
    switch = MemorySwitch()
    known = web(kube.endpoint("198.19.1.1"), kube.endpoint("198.19.1.2"))
    assert switch.pass_over(known, attached("198.19.1.1"), HERE)[0] > 0
    assert switch.pass_over(known, attached("198.19.1.1"), HERE)[0] == 0


def test_both_families_of_a_service() -> None:
    service = kube.service("web", VIRTUAL, "fd00:96::10")
    slices = [
        kube.slice_of("web", kube.endpoint("198.19.1.1")),
        kube.slice_of("web", kube.endpoint("2001:2::1"), family="IPv6"),
    ]
    switch = MemorySwitch()
    switch.pass_over(cluster([], NODES, [service], slices), [], HERE)
    assert set(switch.backends(VIRTUAL, 80)) == {"198.19.1.1 8080"}
    assert set(switch.backends("fd00:96::10", 80)) == {"2001:2::1 8080"}


def test_datagrams_are_balanced_beside_streams() -> None:
    service = kube.service("dns", VIRTUAL, port=53)
    service["spec"]["ports"] = [
        {"name": "udp", "protocol": "UDP", "port": 53},
        {"name": "tcp", "protocol": "TCP", "port": 53},
    ]
    found = kube.slice_of("dns", kube.endpoint("198.19.1.1"))
    found["ports"] = [
        {"name": "udp", "protocol": "UDP", "port": 5353},
        {"name": "tcp", "protocol": "TCP", "port": 5354},
    ]
    switch = MemorySwitch()
    _, wanted = switch.pass_over(cluster([], NODES, [service], [found]), [], HERE)
    assert not wanted.problems
    assert set(switch.backends(VIRTUAL, 53, protocol=17)) == {"198.19.1.1 5353"}
    assert set(switch.backends(VIRTUAL, 53, protocol=6)) == {"198.19.1.1 5354"}


def test_backends_behind_the_nodes_kernel_answer_by_its_port() -> None:
    """Such as the API server: their answers come to this switch, and get the Service's address."""
    host = HostPort(2, "02:ff:00:00:00:02", ("198.18.0.0/24",))
    here = Settings("node1", uplink=HERE.uplink, host=host)
    ends = [kube.endpoint("198.18.0.4", ""), kube.endpoint("198.19.1.1")]
    switch = MemorySwitch()
    switch.pass_over(web(*ends), [], here)
    assert answered(switch, "198.18.0.4") == [(VIRTUAL, 80), None]
    assert switch.port_of("198.18.0.4") == 2


def test_a_service_without_endpoints_has_an_entry_that_leads_nowhere() -> None:
    switch = MemorySwitch()
    switch.pass_over(web(), [], HERE)
    assert switch.backends(VIRTUAL, 80) == []
    assert [entry.params["bucket_count"] for entry in switch.tables.of("service")] == [0]


def test_endpoints_that_end_serve_only_while_there_is_no_other() -> None:
    ending = kube.endpoint("198.19.1.1", ready=False, serving=True, terminating=True)
    switch = MemorySwitch()
    switch.pass_over(web(ending), [], HERE)
    assert set(switch.backends(VIRTUAL, 80)) == {"198.19.1.1 8080"}
    switch.pass_over(web(ending, kube.endpoint("198.19.1.2")), [], HERE)
    assert set(switch.backends(VIRTUAL, 80)) == {"198.19.1.2 8080"}


def test_services_that_nobody_asked_for_are_left_to_others() -> None:
    plain = kube.service("web", VIRTUAL)
    plain["metadata"]["labels"] = {}
    other = kube.service("lb", outside=("203.0.113.7",), loadBalancerClass="example.com/other")
    found = cluster([], NODES, [plain, other], [])
    assert found.services == []


def test_outside_traffic_stays_on_its_node_when_asked_to() -> None:
    service = kube.service("web", outside=("203.0.113.7",), externalTrafficPolicy="Local")
    ends = [kube.endpoint("198.19.1.1", "node1"), kube.endpoint("198.19.1.2", "node2")]
    known = cluster([], NODES, [service], [kube.slice_of("web", *ends)])
    switch = MemorySwitch()
    switch.pass_over(known, attached("198.19.1.1"), HERE)
    assert set(switch.backends("203.0.113.7", 80)) == {"198.19.1.1 8080"}
    # A node without an endpoint is sent nothing from outside; its own pods get any.
    switch = MemorySwitch()
    switch.pass_over(known, [], Settings("node3", uplink=HERE.uplink))
    assert set(switch.backends("203.0.113.7", 80)) == {"198.19.1.1 8080", "198.19.1.2 8080"}


def test_cluster_traffic_stays_on_its_node_when_asked_to() -> None:
    ends = [kube.endpoint("198.19.1.2", "node2")]
    switch = MemorySwitch()
    switch.pass_over(web(*ends, internalTrafficPolicy="Local"), [], HERE)
    assert switch.backends(VIRTUAL, 80) == []


def test_the_number_of_buckets_can_be_asked_for() -> None:
    service = kube.service("web", VIRTUAL)
    service["metadata"]["annotations"] = {"flowferry.dev/buckets": "31"}
    ends = kube.slice_of("web", kube.endpoint("198.19.1.1"))
    switch = MemorySwitch()
    switch.pass_over(cluster([], NODES, [service], [ends]), [], HERE)
    assert len(switch.backends(VIRTUAL, 80)) == 31


@pytest.mark.parametrize("buckets", ["32", "-3", "many", "65537", "0"])
def test_a_bad_number_of_buckets_is_told(buckets: str) -> None:
    service = kube.service("web", VIRTUAL)
    service["metadata"]["annotations"] = {"flowferry.dev/buckets": buckets}
    assert codes(cluster([], NODES, [service], [])) == ["bad_buckets"]


def test_what_the_switch_cannot_do_is_told_and_left_out() -> None:
    assert codes(web(protocol="SCTP")) == ["protocol_unsupported"]


@pytest.mark.parametrize(
    ("config", "units"),
    [({}, 5150), ({"clientIP": {"timeoutSeconds": 1}}, 1),
     ({"clientIP": {"timeoutSeconds": 86400}}, 41199)],
)  # fmt: skip
def test_clients_stay_together_for_as_long_as_asked(config: dict[str, object], units: int) -> None:
    """In units of 2^21 microseconds, rather longer than shorter; three hours by default."""
    known = web(
        kube.endpoint("198.19.1.1"), sessionAffinity="ClientIP", sessionAffinityConfig=config
    )
    switch = MemorySwitch()
    _, wanted = switch.pass_over(known, [], HERE)
    assert not wanted.problems
    (service,) = [e for e in switch.tables.of("service") if e.action != "reach_backend"]
    assert (service.action, service.params["client_time"]) == ("select_client", units)


def test_one_port_answers_for_several_services() -> None:
    services = [
        kube.service("young", OTHER, created="2026-02-01T00:00:00Z"),
        kube.service("old", VIRTUAL, outside=("203.0.113.7",), created="2026-01-01T00:00:00Z"),
    ]
    slices = [kube.slice_of(name, kube.endpoint("198.19.1.1")) for name in ("young", "old")]
    switch = MemorySwitch()
    _, wanted = switch.pass_over(cluster([], NODES, services, slices), [], HERE)
    assert not wanted.problems
    for address in (VIRTUAL, OTHER, "203.0.113.7"):
        assert set(switch.backends(address, 80)) == {"198.19.1.1 8080"}
    assert answered(switch, "198.19.1.1") == [(VIRTUAL, 80), ("203.0.113.7", 80)]
    assert len(list(switch.tables.of("backend"))) == 1


def outside(name: str, address: str, **spec: object) -> kube.Object:
    return kube.service(name, outside=(address,), created=f"2026-01-01T00:00:00Z{name}", **spec)


def test_a_port_answers_outside_as_one_address_alone() -> None:
    services = [outside("a", "203.0.113.7"), outside("b", "203.0.113.8")]
    slices = [kube.slice_of(name, kube.endpoint("198.19.1.1")) for name in ("a", "b")]
    switch = MemorySwitch()
    _, wanted = switch.pass_over(cluster([], NODES, services, slices), [], HERE)
    (problem,) = wanted.problems
    assert (problem.code, problem.where) == ("backend_taken", "Service default/b")
    assert "198.19.1.1 port 8080 answers outside of the cluster as 203.0.113.7" in problem.text


def test_where_outside_traffic_stays_on_its_node_a_port_has_any_number_of_addresses() -> None:
    """The switch by which the client comes is that of the pod, and remembers the flow."""
    local = {"externalTrafficPolicy": "Local"}
    services = [outside(n, a, **local) for n, a in (("a", "203.0.113.7"), ("b", "203.0.113.8"))]
    slices = [kube.slice_of(name, kube.endpoint("198.19.1.1")) for name in ("a", "b")]
    _, wanted = MemorySwitch().pass_over(cluster([], NODES, services, slices), [], HERE)
    assert not wanted.problems


def test_what_is_a_virtual_address_itself_is_not_reached_directly() -> None:
    """An endpoint that is another Service's address; odd, but objects may say so."""
    services = [kube.service("a", VIRTUAL), kube.service("b", OTHER, port=8080)]
    slices = [
        kube.slice_of("a", kube.endpoint(OTHER)),
        kube.slice_of("b", kube.endpoint("198.19.1.1")),
    ]
    switch = MemorySwitch()
    switch.pass_over(cluster([], NODES, services, slices), [], HERE)
    assert set(switch.backends(OTHER, 8080)) == {"198.19.1.1 8080"}


def test_a_virtual_address_has_one_service() -> None:
    services = [kube.service("a", VIRTUAL), kube.service("b", VIRTUAL)]
    assert codes(cluster([], NODES, services, [])) == ["virtual_taken"]


def test_full_tables_are_told_and_older_services_go_first() -> None:
    names = [f"s{n}" for n in range(6)]
    services = [
        kube.service(name, f"10.96.1.{n}", created=f"2026-01-01T{9 - n:06}")
        for n, name in enumerate(names)
    ]
    for service in services:
        service["metadata"]["annotations"] = {"flowferry.dev/buckets": "65521"}
    slices = [
        kube.slice_of(name, kube.endpoint("198.19.1.1"), port=n + 1) for n, name in enumerate(names)
    ]
    wanted = MemorySwitch().wanted(cluster([], NODES, services, slices), [], HERE)
    assert {problem.code for problem in wanted.problems} == {"table_full"}
    refused = sorted(problem.where for problem in wanted.problems)
    room = SIZES["bucket"] // 65521
    assert refused == [f"Service default/s{n}" for n in range(6 - room)]


def test_a_backend_that_goes_leaves_the_others_where_they_are() -> None:
    switch = MemorySwitch()
    ends = [kube.endpoint(f"198.19.1.{n}") for n in range(1, 8)]
    switch.pass_over(web(*ends), [], HERE)
    before = switch.backends(VIRTUAL, 80)
    numbers = {e.params["address"]: e.match["backend_id"] for e in switch.tables.of("backend")}
    switch.pass_over(web(*ends[1:]), [], HERE)
    after = switch.backends(VIRTUAL, 80)
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    assert before.count("198.19.1.1 8080") <= moved < 2 * before.count("198.19.1.1 8080")
    assert all(numbers[e.params["address"]] == e.match["backend_id"]
               for e in switch.tables.of("backend"))  # fmt: skip


def test_a_redirected_backend_stays_until_the_move_is_over() -> None:
    """A move to another address: one MODIFY of the backend, long before the API says anything."""
    old, new = "198.19.1.1", "198.19.1.2"
    switch = MemorySwitch()
    before = web(kube.endpoint(old))
    switch.pass_over(before, attached(old), HERE)
    (backend,) = switch.tables.of("backend")
    hold = Entry("hold_to", {"address": old}, "buffer")
    switch.tables.add(hold)
    moved = Entry("backend", backend.match, "translate", {"address": new, "port": 8080})
    switch.tables.add(moved)
    replied = Entry("reply", {"address": new, "protocol": 6, "port": 8080}, "restore_virtual",
                    {"address": VIRTUAL, "port": 80})  # fmt: skip
    switch.tables.add(replied)
    switch.tables.add(Entry("hold_from", {"address": new}, "buffer"))
    _, wanted = switch.pass_over(before, attached(old, new), HERE)
    assert wanted.deferred == ["default/web"]
    assert switch.backends(VIRTUAL, 80) == [f"{new} 8080"] * 251
    assert switch.tables.get(replied) == replied

    # Released; the guard stays until the source is gone, which is when the API follows.
    guard = Entry("guard", {"ingress_port": 10, "source": old}, "drop")
    for held in list(switch.tables.of("hold_to", "hold_from")):
        switch.tables.replace(held, None)
    switch.tables.add(guard)
    _, wanted = switch.pass_over(before, attached(old, new), HERE)
    assert wanted.deferred == ["default/web"]
    assert switch.backends(VIRTUAL, 80) == [f"{new} 8080"] * 251
    switch.tables.replace(guard, None)
    _, wanted = switch.pass_over(web(kube.endpoint(new)), attached(new), HERE)
    assert not wanted.deferred
    assert (backend.match, switch.backends(VIRTUAL, 80)) == (moved.match, [f"{new} 8080"] * 251)
    assert not [e for e in switch.tables.of("reply") if e.match["address"] == old]


def test_numbers_of_others_are_not_given_out() -> None:
    """Two services under one number, a bucket that leads nowhere: all is put right."""
    anywhere = {"port": 1, "source_mac": 1, "destination_mac": 2}
    switch = MemorySwitch(
        Entry("route", {"destination": "0.0.0.0/0"}, "forward", anywhere),
        Entry("service", {"address": VIRTUAL, "protocol": 6, "port": 80}, "select_bucket",
              {"service_id": 1, "bucket_count": 1}),
        Entry("service", {"address": OTHER, "protocol": 6, "port": 80}, "select_bucket",
              {"service_id": 1, "bucket_count": 1}),
        Entry("bucket", {"service_id": 1, "bucket": 0}, "to_backend", {"backend_id": 1}),
        Entry("backend", {"backend_id": 1}, "translate", {"address": "198.19.1.1", "port": 8080}),
        Entry("bucket", {"service_id": 2, "bucket": 0}, "to_backend", {"backend_id": 2}),
    )  # fmt: skip
    services = [kube.service("a", VIRTUAL), kube.service("b", OTHER)]
    slices = [
        kube.slice_of("a", kube.endpoint("198.19.1.1")),
        kube.slice_of("b", kube.endpoint("198.19.1.2")),
    ]
    switch.pass_over(cluster([], NODES, services, slices), [], HERE)
    assert set(switch.backends(VIRTUAL, 80)) == {"198.19.1.1 8080"}
    assert set(switch.backends(OTHER, 80)) == {"198.19.1.2 8080"}


_ENDS = st.sets(st.integers(1, 8), max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(_ENDS, _ENDS, _ENDS, st.booleans()), min_size=2, max_size=5))
def test_on_every_way_between_two_states_each_packet_finds_a_backend(
    states: list[tuple[set[int], set[int], set[int], bool]],
) -> None:
    """MemorySwitch looks after each update. At the end nothing is left that is not wanted."""
    switch = MemorySwitch()
    for one, two, here, there in states:
        services = [kube.service("one", VIRTUAL, port=80)]
        services += [kube.service("two", OTHER, port=81)] if there else []
        slices = [
            kube.slice_of("one", *[kube.endpoint(f"198.19.1.{n}") for n in one]),
            kube.slice_of("two", *[kube.endpoint(f"198.19.1.{n}") for n in two], port=9090),
        ]
        for service in services:
            service["metadata"]["annotations"] = {"flowferry.dev/buckets": "13"}
        known = cluster([], NODES, services, slices)
        local = attached(*[f"198.19.1.{n}" for n in here])
        switch.pass_over(known, local, HERE)
        fresh = MemorySwitch()
        fresh.pass_over(known, local, HERE)
        assert switch.backends(VIRTUAL, 80) == fresh.backends(VIRTUAL, 80)
        assert len(switch.tables) == len(fresh.tables)
        assert switch.pass_over(known, local, HERE)[0] == 0
