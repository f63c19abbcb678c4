# SPDX-License-Identifier: Apache-2.0
"""By which method a pod moves: directly where that works, by the kubelet where not, and why.

What cannot move directly is found in the plan, on either node, and so the other method can be taken
there; a move that has begun keeps the one that it has.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.pods import keeps_name

from . import pod_direct

# How the copy comes by its checkpoint, and why so: docs/architecture.md has what others would cost.
WAY = "waiting"
WHY = (
    "the copy is made before the hold and waits for its image; to make it afterwards (cold), or to "
    "exchange the image of one that runs (patch), takes longer while packets are held"
)
WAY_OF_NAMED = "cold"
WHY_OF_NAMED = (
    "the copy has to have the name of the source, so that it can be made only when that is "
    "deleted, while packets are held"
)
About = dict[str, Any]


def directly(about: About) -> About:
    """What the plan has of a pod that moves directly."""
    return {
        "method": "direct",
        "way": pod_direct.WAY,
        "why": pod_direct.why(about),
        "source_place": pod_direct.place_of(about["manifest"]),
        **memory_of(about["containers"]),
    }


def by_kubelet(about: About) -> About:
    """The same of one that the kubelet dumps."""
    is_named = keeps_name(about["manifest"])
    return {
        "method": "kubelet",
        "way": WAY_OF_NAMED if is_named else WAY,
        "why": WHY_OF_NAMED if is_named else WHY,
        **memory_of(about["containers"]),
    }


def instead(asked: str, about: About, error: FlowferryError) -> About:
    """The kubelet's way for a pod that does not move directly by this reason; else the reason.

    It is no way for a pod that was moved directly before, nor where it was not asked for.
    """
    if error.code != "direct_impossible":
        raise error
    if asked == "auto" and not pod_direct.was_moved_directly(about["manifest"]):
        for container in about["containers"].values():
            container.pop("direct", None)
        told = by_kubelet(about)
        return {**told, "why": f"{told['why']}; not directly: {error}"}
    title = f"pod {about['namespace']}/{about['manifest']['metadata']['name']}"
    raise FlowferryError(
        error.code, f"{title} cannot be moved directly: {error}", error.details
    ) from error


def memory_of(containers: dict[str, Any]) -> dict[str, int]:
    """Of all; of those that move directly, without files that the kernel merely keeps in memory."""
    told = [one.get("direct", one) for one in containers.values()]
    names = ("memory_bytes", "apart_bytes")
    return {name: sum(one.get(name, 0) for one in told) for name in names}
