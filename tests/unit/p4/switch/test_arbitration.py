# SPDX-License-Identifier: Apache-2.0
"""Elections: who is primary after which message. The wire side is in the integration tests."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import p4r
from flowferry_p4.switch.arbitration import Arbitration
from flowferry_p4.switch.controller import Controller
from flowferry_p4.switch.rpc_errors import RpcFailure

OK, NOT_FOUND, EXISTS = 0, 5, 6


def ask(arbitration: Arbitration, controller: Controller, election: int, role: str = "") -> None:
    message = p4r.MasterArbitrationUpdate(device_id=1)
    message.election_id.high = election >> 64
    message.election_id.low = election & (1 << 64) - 1
    if role:
        message.role.name = role
    arbitration.update(controller, message)


def told(controller: Controller) -> list[int]:
    """Status codes of the notices since the last look."""
    codes = []
    while not controller.outbox.empty():
        message = controller.outbox.get()
        assert isinstance(message, p4r.StreamMessageResponse)
        codes.append(message.arbitration.status.code)
    return codes


@pytest.fixture
def arbitration() -> Arbitration:
    return Arbitration(1)


def test_ids_have_128_bits(arbitration: Arbitration) -> None:
    small, large = Controller(), Controller()
    ask(arbitration, small, (1 << 64) - 1)
    ask(arbitration, large, 1 << 64)
    assert told(small) == [OK, EXISTS]
    assert told(large) == [OK]
    arbitration.check_primary("", p4r.Uint128(high=1))
    with pytest.raises(RpcFailure, match="is not the primary's"):
        arbitration.check_primary("", p4r.Uint128(low=(1 << 64) - 1))


def test_nobody_is_promoted_without_asking(arbitration: Arbitration) -> None:
    first, second = Controller(), Controller()
    ask(arbitration, first, 10)
    ask(arbitration, second, 5)
    told(first), told(second)
    arbitration.leave(first)
    assert told(second) == [NOT_FOUND]
    with pytest.raises(RpcFailure) as caught:
        arbitration.check_primary("", p4r.Uint128(low=5))
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.message == "there is no primary"


def test_the_highest_id_ever_seen_is_the_bar(arbitration: Arbitration) -> None:
    """A controller that comes back with its old id is primary again; a lower one is not."""
    first, low, again = Controller(), Controller(), Controller()
    ask(arbitration, first, 10)
    arbitration.leave(first)
    ask(arbitration, low, 9)
    assert told(low) == [NOT_FOUND]
    ask(arbitration, again, 10)
    assert told(again) == [OK]
    assert told(low) == [EXISTS]


def test_only_concerned_controllers_are_told(arbitration: Arbitration) -> None:
    primary, backup, late = Controller(), Controller(), Controller()
    ask(arbitration, primary, 10)
    ask(arbitration, backup, 1)
    told(primary), told(backup)
    ask(arbitration, late, 2)
    assert (told(primary), told(backup), told(late)) == ([], [], [EXISTS])


def test_roles_are_separate(arbitration: Arbitration) -> None:
    one, two = Controller(), Controller()
    ask(arbitration, one, 10, "a")
    ask(arbitration, two, 10, "b")
    assert told(one) == told(two) == [OK]
    assert set(arbitration.primaries()) == {one, two}
    arbitration.check_primary("b", p4r.Uint128(low=10))


def test_a_stream_keeps_its_role(arbitration: Arbitration) -> None:
    one = Controller()
    ask(arbitration, one, 10, "a")
    with pytest.raises(RpcFailure) as caught:
        ask(arbitration, one, 10, "b")
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_leaving_twice_is_harmless(arbitration: Arbitration) -> None:
    one = Controller()
    arbitration.leave(one)
    ask(arbitration, one, 1)
    arbitration.leave(one)
    arbitration.leave(one)
    assert arbitration.primaries() == []
