# SPDX-License-Identifier: Apache-2.0
"""P4Runtime's entities, one module for each kind: messages against the stores of a data plane.

tables        table entries with their counters, meters and idle timeouts
arrays        counters, meters and registers by index
profiles      members and groups of action profiles, and one-shot entries
replication   multicast groups and clone sessions
value_sets    parser value sets
data          P4Data: values of the types that P4Info describes
"""

from .handler import Handler, Undo

__all__ = ["Handler", "Undo"]
