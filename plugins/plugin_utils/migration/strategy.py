# SPDX-License-Identifier: Apache-2.0
"""What a migration does at the switch besides hold and guard: the two address strategies.

``keep``: the workload keeps its addresses, and the redirect is one MODIFY of its route.
``rewrite``: it gets other ones, and the redirect is one MODIFY of the backend of the service that
clients use. An endpoint with several addresses, or behind several services, has several such
entries; then the last one to be written decides whether the redirect took place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from ipaddress import ip_address
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from flowferry_p4.client import Entry, Session
from flowferry_p4.client.traffic import EndpointTraffic


def addresses_of(endpoint: dict[str, Any]) -> list[str]:
    """The addresses of an endpoint, as Endpoint.as_dict() has them; the first one decides.

    There are none while the destination has not chosen yet.
    """
    return [one for one in (endpoint["address"], *endpoint.get("others", [])) if one]


class Strategy(ABC):
    """Entries at the switch for one planned migration; every method can be repeated."""

    def __init__(self, session: Session, plan: dict[str, Any]) -> None:
        self._session = session
        self.plan = plan
        self.old = addresses_of(plan["endpoint"])
        self.new = addresses_of(plan["destination_endpoint"])
        # A journal from before targets were known of says nothing: packets were buffered.
        buffers = plan.get("switch", {}).get("hold") != "drop"
        both = list(dict.fromkeys(self.old + self.new))
        self.traffic = EndpointTraffic(session, both, buffers=buffers)
        self.source_traffic = EndpointTraffic(session, self.old)

    def check(self) -> None:
        """Refuse a switch that would not do what is planned."""
        require_route(self.source_traffic, self.plan["source"])
        if self.traffic.is_held():
            raise FlowferryError(
                "already_held",
                f"the endpoint {self.old[0]} is held at the switch already, by another migration "
                "or controller; wait for it, or delete its entries in hold_to and hold_from",
            )

    def learn(self, endpoint: dict[str, Any]) -> None:
        """Before the hold: the endpoint that the destination has given to the copy.

        One that is refused is not taken into the plan: its entries are somebody else's.
        """
        if endpoint != self.plan["destination_endpoint"]:
            learned = type(self)(self._session, {**self.plan, "destination_endpoint": endpoint})
            learned.check()
            self.plan["destination_endpoint"] = endpoint
            self.new, self.traffic = learned.new, learned.traffic

    # -- guard and release, by the ends of the move

    def guard(self, end: str) -> None:
        """Nothing of the endpoint is heard from there."""
        self.traffic.guard(self.plan[end]["switch_port"])

    def unguard(self, end: str) -> None:
        """Listen to that end again."""
        self.traffic.unguard(self.plan[end]["switch_port"])

    def release(self, heard_until: dict[str, float]) -> None:
        """Deliver what is held; of the endpoint's packets those of these ends, up to then."""
        self.traffic.release({self.plan[end]["switch_port"]: t for end, t in heard_until.items()})

    @abstractmethod
    def changed_addresses(self) -> dict[str, str]:
        """How the checkpoint's addresses change, {old: new}; empty when they do not."""

    @abstractmethod
    def prepare(self) -> None:
        """Before the hold: entries that nobody notices yet."""

    @abstractmethod
    def look(self) -> None:
        """While the copy is restored: read what the redirect is going to change."""

    @abstractmethod
    def redirect(self) -> None:
        """The commit point."""

    @abstractmethod
    def is_redirected(self) -> bool:
        """The switch says whether the redirect took place."""

    @abstractmethod
    def lead_back(self) -> None:
        """Before the commit point: undo the part of a redirect that took place."""

    @abstractmethod
    def forget_old(self) -> None:
        """The source is gone: what only it needed."""

    @abstractmethod
    def forget_new(self) -> None:
        """The copy is gone, and nothing was redirected: what only it needed."""


class Keep(Strategy):
    """The destination gets the source's addresses."""

    _routes: list[Entry] | None = None

    def changed_addresses(self) -> dict[str, str]:
        return {}

    def prepare(self) -> None:
        """Nothing: the routes are there."""

    def look(self) -> None:
        self._routes = self.traffic.routes()

    def redirect(self) -> None:
        self._lead_to("destination", self._routes)

    def is_redirected(self) -> bool:
        route = self.traffic.route()
        wanted = self.plan["destination"]["switch_port"]
        return route is not None and bool(route.params["port"] == wanted)

    def lead_back(self) -> None:
        self._lead_to("source")

    def _lead_to(self, end: str, routes: list[Entry] | None = None) -> None:
        node = self.plan[end]
        self.traffic.redirect(node["switch_port"], node["mac"], routes)

    def forget_old(self) -> None:
        """Nothing: the entries are the copy's now."""

    def forget_new(self) -> None:
        """Nothing: the entries are the source's."""


class Rewrite(Strategy):
    """The destination has addresses of its own, behind the same virtual ones."""

    def check(self) -> None:
        super().check()
        if self.new:
            _check_pairs(self.old, self.new)
        if not self.traffic.backends(self.old[0]):
            raise FlowferryError(
                "no_service",
                f"no entry of the switch's table backend leads to {self.old[0]}, so clients use "
                "that address itself and would notice another one; put a service before it "
                "(tables service, bucket, backend and reply), or use address_strategy=keep",
            )
        for address in self.new:
            if self.traffic.has_entries(address):
                raise FlowferryError(
                    "address_taken",
                    f"the switch has entries for {address} already; choose another "
                    "destination_address, or delete them with flowferry.core.p4_table",
                )

    def changed_addresses(self) -> dict[str, str]:
        return dict(zip(self.old, self.new))

    def prepare(self) -> None:
        destination = self.plan["destination"]
        for address in self.new:
            self.traffic.add_route(address, destination["switch_port"], destination["mac"])

    def look(self) -> None:
        """Nothing: replies are made for the new address by then, and all is read together."""

    def redirect(self) -> None:
        for old, new in reversed(self.changed_addresses().items()):
            self.traffic.translate(old, new)

    def is_redirected(self) -> bool:
        # A switch that has neither has lost its tables: that is no redirect.
        old, new = self.old[0], self.new[0] if self.new else None
        return bool(new and self.traffic.backends(new)) and not self.traffic.backends(old)

    def lead_back(self) -> None:
        for old, new in self.changed_addresses().items():
            if self.traffic.backends(new):
                self.traffic.translate(new, old)

    def forget_old(self) -> None:
        self._forget(self.old)

    def forget_new(self) -> None:
        self._forget(self.new)

    def _forget(self, addresses: list[str]) -> None:
        for address in addresses:
            self.traffic.forget_replies(address)
            self.traffic.forget_route(address)


def _check_pairs(old: list[str], new: list[str]) -> None:
    """Each address gets another one of its version."""
    versions = [[ip_address(address).version for address in ends] for ends in (old, new)]
    if versions[0] != versions[1] or set(old) & set(new):
        raise FlowferryError(
            "address_mismatch",
            f"address_strategy=rewrite needs another address for each that the workload has "
            f"({', '.join(old)}), of the same IP version; given: {', '.join(new)}. Give others as "
            "destination_address (with a comma between two), or use address_strategy=keep",
        )


STRATEGIES: dict[str, type[Strategy]] = {"keep": Keep, "rewrite": Rewrite}


def for_plan(session: Session, plan: dict[str, Any]) -> Strategy:
    """The strategy that a plan names, at one switch."""
    return STRATEGIES[plan["strategy"]](session, plan)


def require_route(traffic: EndpointTraffic, node: dict[str, Any]) -> None:
    """Refuse unless the endpoint's own routes lead to the node."""
    if traffic.port() != node["switch_port"]:
        address = traffic.addresses[0]
        raise FlowferryError(
            "route_mismatch",
            f"the switch has no route entry for {address.text}/{address.bits} that leads to port "
            f"{node['switch_port']} of {node['name']} (found: {traffic.route()}); add or correct "
            "it with flowferry.core.p4_table",
        )
