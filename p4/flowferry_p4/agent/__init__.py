# SPDX-License-Identifier: Apache-2.0
"""Kubernetes to tables: keeps a node's switch equal to what the cluster says.

result = reconcile(session, cluster(pods, nodes, services, slices), attachments, settings)

Objects come as the API server writes them in JSON.
"""

from __future__ import annotations

from .links import Attachment, HostPort, Settings, Uplink
from .objects import Cluster, cluster
from .problems import Problem
from .reconcile import Desired, Result, desired, plan, reconcile
from .tables import Tables

__all__ = [
    "Attachment",
    "Cluster",
    "Desired",
    "HostPort",
    "Problem",
    "Result",
    "Settings",
    "Tables",
    "Uplink",
    "cluster",
    "desired",
    "plan",
    "reconcile",
]
