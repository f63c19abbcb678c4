# SPDX-License-Identifier: Apache-2.0
"""A switch's tables in memory, which insist on what a packet needs after every single update."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from flowferry_p4.agent import Attachment, Cluster, Desired, Settings, Tables, desired, plan
from flowferry_p4.client import Entry, Schema, Update

ROOT = Path(__file__).resolve().parents[4]
SCHEMA = Schema((ROOT / "p4/compiled/flowferry.p4info.txtpb").read_text(encoding="utf-8"))
SIZES = {name: table.size for name, table in SCHEMA.tables.items()}


class MemorySwitch:
    def __init__(self, *entries: Entry) -> None:
        self.tables = Tables(SCHEMA.normalise(entry) for entry in entries)

    def pass_over(
        self, cluster: Cluster, attachments: Sequence[Attachment], settings: Settings
    ) -> tuple[int, Desired]:
        """One pass of the agent; returns how many updates it wrote."""
        wanted = self.wanted(cluster, attachments, settings)
        for entry in wanted.entries:
            assert SCHEMA.normalise(entry) == entry, "an entry that would differ when it is read"
        updates = [update for batch in plan(self.tables, wanted.entries) for update in batch]
        for update in updates:
            self.apply(update)
            self.check()
        return len(updates), wanted

    def wanted(
        self, cluster: Cluster, attachments: Sequence[Attachment], settings: Settings
    ) -> Desired:
        return desired(cluster, attachments, settings, self.tables, SIZES)

    def apply(self, update: Update) -> None:
        there = self.tables.get(update.entry)
        assert (there is None) == (update.kind == "INSERT"), f"{update.label}: there is {there}"
        self.tables.replace(update.entry, None if update.kind == "DELETE" else update.entry)

    def check(self) -> None:
        """Every packet to a service finds a bucket, its backend, and a route to that.

        So does every flow that stays with its backend, and its answers find the virtual address.
        """
        reached: dict[str, int | None] = {}
        for service in self.tables.of("service", "service_ipv6"):
            if service.action == "reach_backend":
                continue
            self.check_flows(service)
            for bucket in range(service.params["bucket_count"]):
                address, _ = self.follow(service, bucket)
                if address not in reached:
                    reached[address] = self.port_of(address)
                assert reached[address] is not None, f"{service.label}: no route to {address}"

    def check_flows(self, service: Entry) -> None:
        if service.action == "select_bucket":
            return
        suffix = "_ipv6" if service.table.endswith("_ipv6") else ""
        number = service.params["service_id"]
        name = self.tables.get(Entry(f"virtual_address{suffix}", {"service_id": number}))
        assert name and name.params["address"] == service.match["address"], service.label
        for member in self.tables.of("member"):
            if member.match["service_id"] == number:
                backend = {"backend_id": member.match["backend_id"]}
                assert self.tables.get(Entry(f"backend{suffix}", backend)), member.label

    def follow(self, service: Entry, bucket: int) -> tuple[str, int]:
        """Address and port of the backend."""
        version6 = service.table.endswith("_ipv6")
        suffix = "_ipv6" if version6 else ""
        key = {"service_id": service.params["service_id"], "bucket": bucket}
        chosen = self.tables.get(Entry("bucket", key))
        assert chosen, f"{service.label}: no bucket {bucket}"
        number = {"backend_id": chosen.params["backend_id"]}
        backend = self.tables.get(Entry(f"backend{suffix}", number))
        assert backend, f"{chosen.label}: no backend {number}"
        return backend.params["address"], backend.params["port"]

    def port_of(self, address: str) -> int | None:
        """By the longest prefix."""
        parsed = ip_address(address)
        table = "route" if parsed.version == 4 else "route_ipv6"
        ways = [
            (ip_network(entry.match["destination"]).prefixlen, entry.params["port"])
            for entry in self.tables.of(table)
            if parsed in ip_network(entry.match["destination"])
        ]
        return max(ways)[1] if ways else None

    def backends(self, address: str, port: int, protocol: int = 6) -> list[str]:
        """The backend of each bucket, as ADDRESS PORT."""
        table = "service_ipv6" if ":" in address else "service"
        key = {"address": address, "protocol": protocol, "port": port}
        service = self.tables.get(Entry(table, key))
        assert service, f"no service {address} port {port}"
        found = [self.follow(service, n) for n in range(service.params["bucket_count"])]
        return [f"{a} {p}" for a, p in found]
