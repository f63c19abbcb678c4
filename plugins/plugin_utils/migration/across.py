# SPDX-License-Identifier: Apache-2.0
"""A move between nodes that have switches of their own, with another switch before them.

All packets to the endpoint end at the switch of the source's node, whichever way they come, and
from the redirect on at that of the destination's. So it is enough that those two, and the edge,
change their routes while everything is held. Other nodes follow by their agents afterwards; until
then the source's switch sends on what they send to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from flowferry_p4.client import (
    Entry,
    NotPrimary,
    P4Error,
    Session,
    SwitchUnreachable,
    Tls,
    Update,
)
from flowferry_p4.client.traffic import Address, EndpointTraffic

from .strategy import Strategy, require_route

# A switch whose process is started again is back within this time (seconds). The source can go on
# without the edge, and does not stand still as long as that is away.
PATIENCE = {"source": 20.0, "destination": 20.0, "edge": 2.0}
ENDS = ("source", "destination")
Found = TypeVar("Found")


class Switches:
    """Sessions with several switches by their addresses, each opened when it is needed."""

    def __init__(self, primary: bool) -> None:
        self._primary = primary
        self._sessions: dict[str, Session] = {}

    def get(self, switch: dict[str, Any]) -> Session:
        """An open one: a switch that was started again gets another."""
        address = switch["address"]
        known = self._sessions.get(address)
        if known is None or known.closed.is_set():
            device = int(switch.get("device_id", 1))
            tls = Tls(**switch["tls"]) if switch.get("tls") else None
            opened = Session.open(address, device_id=device, primary=self._primary, tls=tls)
            self._sessions[address] = opened
        return self._sessions[address]

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()


class Place:
    """One switch of the move. What has to be done sooner or later waits until it is back."""

    def __init__(
        self,
        switch: Callable[[], Session],
        addresses: list[str],
        patience: float,
        buffers: bool = True,
    ) -> None:
        self._switch = switch
        self._patience = patience
        self.traffic = EndpointTraffic(switch(), addresses, buffers=buffers)

    def surely(self, act: Callable[[EndpointTraffic], Found]) -> Found:
        """Do something that can be repeated; a switch that is away gets some time."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if self.traffic.session.closed.is_set():
                    self.traffic.session = self._switch()
                return act(self.traffic)
            except (SwitchUnreachable, NotPrimary):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class Several:
    """Hold and release at all places, as EndpointTraffic does at one.

    Until the source is frozen it is held at its node's switch alone, where everything passes: what
    is let through meanwhile would else be held again and again.
    """

    def __init__(self, places: dict[str, Place], plan: dict[str, Any]) -> None:
        self._places = places
        self._plan = plan
        self.released_at = 0.0

    def listen(self) -> None:
        """At both nodes: what is held there comes here."""
        for end in ENDS:
            self._places[end].surely(lambda traffic: traffic.listen())

    def hold_ingress(self) -> None:
        """At the source's node; at both, once the redirect may have begun."""
        for end in ENDS if self._plan.get("held_everywhere") else ["source"]:
            self._places[end].surely(lambda traffic: traffic.hold_ingress())

    def hold_egress(self) -> None:
        """At both nodes: the copy speaks as soon as it is restored."""
        for end in ENDS:
            self._places[end].surely(lambda traffic: traffic.hold_egress())

    def let_through(self) -> None:
        self._places["source"].traffic.let_through()

    def is_held(self) -> bool:
        return any(place.traffic.is_held() for place in self._places.values())

    @property
    def buffer(self) -> Any:
        """What was held, as a sum."""
        return _Sum([place.traffic.buffer for place in self._places.values()])

    def release(self, heard_until: dict[str, dict[int, float]]) -> None:
        """The source's node first, whose packets are the oldest; then all wait for latecomers."""
        places = {name: self._places[name] for name in self._places if name in heard_until}
        for name, place in places.items():
            place.surely(lambda traffic, n=name: traffic.begin_release(heard_until[n]))
        self.released_at = time.monotonic()
        for name, place in places.items():
            place.surely(lambda traffic, n=name: traffic.finish_release(heard_until[n]))


class _Sum:
    def __init__(self, buffers: list[Any]) -> None:
        self.packets = sum(buffer.packets for buffer in buffers)
        self.overflow = sum(buffer.overflow for buffer in buffers)


class KeepAcross(Strategy):
    """The endpoint keeps its addresses, and three switches redirect it; the last one decides.

    That is the one of the destination's node. Its own MODIFY has no effect on anybody before the
    others lead there, and theirs have none while the endpoint is held at both nodes.
    """

    def __init__(self, session: Session, plan: dict[str, Any], switches: Switches) -> None:
        super().__init__(session, plan)
        self._switches = switches
        buffers = plan.get("switch", {}).get("hold") != "drop"
        self._places = {
            end: Place(lambda e=end: switches.get(plan[e]["switch"]), self.old, PATIENCE[end])
            for end in ENDS
        }
        edge = plan["switch"]["at"]
        self._places["edge"] = Place(
            lambda: switches.get(edge), self.old, PATIENCE["edge"], buffers
        )
        self._edge_is_away: SwitchUnreachable | None = None
        self.traffic = Several(self._places, plan)  # type: ignore[assignment]

    def _port(self, end: str) -> int | None:
        """Of the pod at its node's switch; None of a copy that is not there yet."""
        name = {"source": "attachment", "destination": "copy_attachment"}[end]
        found: int | None = self.plan["about"].get(name, {}).get("port")
        return found

    def _at(self, name: str) -> EndpointTraffic:
        return self._places[name].traffic

    # -- plan

    def check(self) -> None:
        source, destination = self.plan["source"], self.plan["destination"]
        require_route(self._at("edge"), source)
        require_route(
            self._at("source"), {"name": source["name"], "switch_port": self._port("source")}
        )
        if self.traffic.is_held():
            raise FlowferryError(
                "already_held",
                f"the endpoint {self.old[0]} is held at a switch already, by another migration "
                "or controller; wait for it, or delete its entries in hold_to and hold_from",
            )
        self.plan["routes"] = {
            name: [_as_dict(self._route(name, address)) for address in self.old]
            for name in self._places
        }
        self.plan["ways"] = {
            # What others send to the source's node goes on from there, after the redirect.
            "source": self._way("source", destination),
            "destination": self._way("destination", source),
            "gateway": self._way("destination", destination)["source_mac"],
        }

    def _way(self, end: str, node: dict[str, Any]) -> dict[str, Any]:
        """How the switch of an end leads to a node, by its own address in the pods' network."""
        found = self._route(end, node["data_address"])
        if found is None:
            raise FlowferryError(
                "route_mismatch",
                f"the switch of {self.plan[end]['name']} has no route to {node['name']} "
                f"({node['data_address']}); its agent makes one when both nodes have an agent: "
                "the log of its pod says what keeps it",
            )
        return dict(found.params)

    def _route(self, name: str, address: str) -> Entry | None:
        parsed = Address(address)
        match = {"destination": f"{parsed.text}/{parsed.bits}"}
        found = self._at(name).session.read(parsed.name("route"), match)
        return found[0] if found else None

    # -- the move

    def changed_addresses(self) -> dict[str, str]:
        return {}

    def prepare(self) -> None:
        """Nothing: the agent of the destination's node leads to the source as long as it runs."""

    def look(self) -> None:
        """From now on everything is held where it comes in, and in the order in which it comes."""
        if self._port("destination") is None:
            raise FlowferryError(
                "prepare_failed",
                f"the copy is at no port of the switch of {self.plan['destination']['name']}: its "
                "pod network has to be that of flowferry's agent there (the role p4_dataplane)",
            )
        self.plan["held_everywhere"] = True
        for name in ("destination", "edge"):
            self._at(name).hold_ingress()

    def redirect(self) -> None:
        """One change at each switch; a switch that is away is a failure, which is rolled back."""
        node, about = self.plan["destination"], self.plan["about"]
        self._at("edge").redirect(node["switch_port"], node["mac"])
        self._lead("source", self.plan["ways"]["source"])
        copy = about["copy_attachment"]
        params = {"port": copy["port"], "destination_mac": copy["mac"]}
        self._lead("destination", {**params, "source_mac": self.plan["ways"]["gateway"]})

    def _lead(self, end: str, params: dict[str, Any]) -> None:
        """The first address follows last; it is the one that is asked for."""
        for address in reversed(self.old):
            parsed = Address(address)
            match = {"destination": f"{parsed.text}/{parsed.bits}"}
            wanted = Entry(parsed.name("route"), match, "forward", params)
            kind = "INSERT" if self._route(end, address) is None else "MODIFY"
            self._at(end).session.write([Update(kind, wanted)])
        if (now := self._at(end).port()) != params["port"]:
            raise P4Error(
                f"the switch of {self.plan[end]['name']} was told to lead {self.old[0]} to port "
                f"{params['port']}, but leads it to {now}"
            )

    def is_redirected(self) -> bool:
        wanted = self._port("destination")
        route = self._places["destination"].surely(lambda traffic: traffic.route())
        return wanted is not None and route is not None and bool(route.params["port"] == wanted)

    def lead_back(self) -> None:
        """The destination's switch first: it decides, and it is the one that did not.

        An edge that is away does not keep the source from going on: see ``release``.
        """
        for end in reversed(ENDS):
            self._places[end].surely(lambda _, e=end: self._restore(e))
        try:
            self._places["edge"].surely(lambda _: self._restore("edge"))
        except SwitchUnreachable as error:
            self._edge_is_away = error

    def _restore(self, name: str) -> None:
        """The routes that were there when this was planned."""
        for address, told in zip(self.old, self.plan["routes"][name]):
            before, now = _entry_of(told), self._route(name, address)
            if before == now:
                continue
            if before is None and now is not None:
                update = Update("DELETE", Entry(now.table, now.match))
            elif before is not None:
                update = Update("INSERT" if now is None else "MODIFY", before)
            self._at(name).session.write([update])

    def guard(self, end: str) -> None:
        """Where the pod is; a copy without a port cannot speak."""
        port = self._port(end)
        if port is not None:
            self._places[end].surely(lambda traffic: traffic.guard(port))

    def unguard(self, end: str) -> None:
        port = self._port(end)
        if port is not None:
            self._places[end].surely(lambda traffic: traffic.unguard(port))

    def release(self, heard_until: dict[str, float]) -> None:
        """Of what comes by an uplink the other end's switch has decided already.

        Raises where the edge was not led back: the journal stays, and the next run sees to it.
        """
        ways = self.plan["ways"]
        heard: dict[str, dict[int, float]] = {"edge": {}}
        for end in ENDS:
            heard[end] = {ways[end]["port"]: math.inf}
            port = self._port(end)
            if end in heard_until and port is not None:
                heard[end][port] = heard_until[end]
        if self._edge_is_away is not None:
            del heard["edge"]
        self.traffic.release(heard)  # type: ignore[arg-type]
        if self._edge_is_away is not None:
            raise self._edge_is_away

    def forget_old(self) -> None:
        """Nothing: agents see to what is left."""

    def forget_new(self) -> None:
        """Nothing: the copy had no entries of its own."""


def _as_dict(entry: Entry | None) -> dict[str, Any] | None:
    """For the plan, which is kept as JSON."""
    if entry is None:
        return None
    return {
        "table": entry.table,
        "match": dict(entry.match),
        "action": entry.action,
        "params": dict(entry.params),
    }


def _entry_of(told: dict[str, Any] | None) -> Entry | None:
    return Entry(**told) if told else None
