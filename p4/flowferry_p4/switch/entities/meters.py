# SPDX-License-Identifier: Apache-2.0
"""MeterConfig messages, and the rates that they set."""

from __future__ import annotations

from finsy.proto import p4i, p4r

from ..cells import Rates
from ..rpc_errors import invalid, unimplemented

_SINGLE_RATE = (p4i.MeterSpec.SINGLE_RATE_TWO_COLOR, p4i.MeterSpec.SINGLE_RATE_THREE_COLOR)


def rates_of(message: p4r.MeterConfig, info: p4i.Meter | p4i.DirectMeter) -> Rates:
    """The rates of a configuration that the type of the meter allows."""
    name = info.preamble.name
    if min(message.cir, message.cburst, message.pir, message.pburst, message.eburst) < 0:
        raise invalid(f"the rates and bursts of meter {name} are not negative")
    if message.eburst:
        raise invalid(f"meter {name} has no excess burst")
    single = info.spec.type in _SINGLE_RATE
    if single and (message.pir, message.pburst) != (message.cir, message.cburst):
        raise invalid(f"meter {name} has a single rate: pir and pburst equal cir and cburst")
    return Rates(message.cir, message.cburst, message.pir, message.pburst)


def meter_config(rates: Rates) -> p4r.MeterConfig:
    return p4r.MeterConfig(
        cir=rates.committed,
        cburst=rates.committed_burst,
        pir=rates.peak,
        pburst=rates.peak_burst,
    )


def refuse_colours(given: bool) -> None:
    """Packets are not counted by their colour."""
    if given:
        raise unimplemented("meters do not count packets by colour")
