# SPDX-License-Identifier: Apache-2.0
"""A slow, obvious interpreter of BMv2 JSON, which the compiled programs are compared with.

It reads the JSON by itself and shares no code with the compiler, so that a mistake is not made
twice. It is meant to be read beside BMv2's description of its JSON.

    state         headers, stacks and metadata of one packet
    expressions   expressions and what they refer to
    algorithms    hashes and sums
    checksums     calculations over fields
    storage       counters and registers
    actions       primitives
    tables        entries, defaults and lookups
    machine       parser, controls, deparser, and what happens to packets between them

Where v1model leaves something open it does what the embedded switch says it does: a field of an
invalid header is zero, the ingress port survives another pass through the program, a digest has the
values at the end of ingress.
"""

from .machine import Machine
from .state import Unsupported

__all__ = ["Machine", "Unsupported"]
