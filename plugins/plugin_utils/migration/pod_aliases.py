# SPDX-License-Identifier: Apache-2.0
"""What a pod goes by that was moved: its name changes, as two pods are there for a while.

The copy is called after the pod as it was called at first, with or without a suffix by turns, and
has that name in a label; so whoever knows one of the names finds it.
"""

from __future__ import annotations

import hashlib

from .cluster import Pod

WORKLOAD_LABEL = "flowferry.io/workload"
_SUFFIX = "-moved"
# What Kubernetes allows; names may be longer.
_LABEL_LIMIT = 63


def label_of(name: str) -> str:
    """The value of the label for a pod that was called so at first."""
    if len(name) <= _LABEL_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _LABEL_LIMIT - len(digest) - 1]}-{digest}"


def first_name(pod: Pod) -> str:
    """What the pod was called before it was ever moved."""
    name = str(pod["metadata"]["name"])
    told = pod["metadata"].get("labels", {}).get(WORKLOAD_LABEL)
    first = name.removesuffix(_SUFFIX)
    return first if told == label_of(first) else name


def names_of(first: str) -> tuple[str, str]:
    """What copies are called by turns."""
    return first, f"{first}{_SUFFIX}"


def labels_of(name: str) -> list[str]:
    """What the pod has in its label that is called so, or was once."""
    return list(dict.fromkeys([label_of(name), label_of(name.removesuffix(_SUFFIX))]))
