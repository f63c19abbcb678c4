# SPDX-License-Identifier: Apache-2.0
"""P4Runtime's entities, one module for each kind: messages against the stores of a data plane.

tables    table entries with their counters and meters
arrays    counters, meters and registers by index
"""

from .handler import Handler, Undo

__all__ = ["Handler", "Undo"]
