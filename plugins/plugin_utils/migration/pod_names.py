# SPDX-License-Identifier: Apache-2.0
"""Names of pods that have to stay: while a name is free for a moment, nobody else may take it.

A StatefulSet knows its pods by their names, and makes a missing one anew within milliseconds. A
reservation is an admission policy of the API server itself: a pod of this name is admitted only as
a copy of the one that is being moved. The set is not touched, and goes on trying.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from typing import Any

from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError

from .cluster import ADMISSION, POLICIES, Cluster, Pod, Refused

# By the uid of its source a copy is known.
SOURCE_ANNOTATION = "flowferry.io/source"
# An API server has heard of a new policy within this time (seconds).
EFFECT_LIMIT = 20.0


class NameReservation:
    """The name of one pod, for the copies of the pod that has it now."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, uid: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.uid = uid
        # Names of pods may be longer than what can be put before them here.
        told = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:16]
        self.policy = f"flowferry-name-{told}"

    def take(self, candidate: Pod) -> None:
        """Reserve the name; returns when the API server refuses it to others, and not to the copy.

        ``candidate`` is a copy that would be admitted under another name too, or this fails. An
        API server goes on for a moment by a policy that was deleted: one of an earlier move of this
        name, which was for another source, refuses the copy too.
        """
        self.cluster.create_pod(_named(candidate, f"{self.name[:200]}-flowferry"), dry_run=True)
        self.free()
        for kind, body in zip(POLICIES, self._policy(), strict=True):
            self.cluster.create_policy(kind, body)
        own = _named(candidate, self.name)
        stranger = _strange(own)
        deadline = time.monotonic() + EFFECT_LIMIT
        # In this order: what refuses others once the copy is admitted is not the earlier policy.
        while self._is_refused(own) or not self._is_refused(stranger):
            if time.monotonic() > deadline:
                raise FlowferryError(
                    "name_not_reserved",
                    f"the API server still admits other pods of the name {self.namespace}/"
                    f"{self.name} or none at all, {EFFECT_LIMIT:g} s after the policy "
                    f"{self.policy} was made; it has to have ValidatingAdmissionPolicy, which is "
                    "there from Kubernetes 1.30 on",
                )
            time.sleep(0.05)

    def free(self) -> None:
        """Let everybody have the name again; nothing is to be done when they may already."""
        for kind in reversed(POLICIES):
            self.cluster.delete_policy(kind, self.policy)

    def _is_refused(self, pod: Pod) -> bool:
        """Whether the policy is why it is refused; that comes before the name is found taken."""
        try:
            self.cluster.create_pod(pod, dry_run=True)
        except Refused as refused:
            return self.policy in str(refused)
        return False

    def _policy(self) -> tuple[dict[str, Any], dict[str, Any]]:
        namespace = {"kubernetes.io/metadata.name": self.namespace}
        name, key, uid = (json.dumps(one) for one in (self.name, SOURCE_ANNOTATION, self.uid))
        policy = {
            "apiVersion": f"{ADMISSION}/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": self.policy},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": namespace},
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                },
                "matchConditions": [
                    {"name": "name", "expression": f"object.metadata.name == {name}"}
                ],
                "validations": [
                    {
                        "expression": "has(object.metadata.annotations) && "
                        f"{key} in object.metadata.annotations && "
                        f"object.metadata.annotations[{key}] == {uid}",
                        "message": "a pod of this name is being moved to another node",
                    }
                ],
            },
        }
        binding = {
            "apiVersion": f"{ADMISSION}/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": self.policy},
            "spec": {"policyName": self.policy, "validationActions": ["Deny"]},
        }
        return policy, binding


def _named(pod: Pod, name: str) -> Pod:
    return {**copy.deepcopy(pod), "metadata": {**copy.deepcopy(pod["metadata"]), "name": name}}


def _strange(pod: Pod) -> Pod:
    """The same one, as if it were no copy."""
    stranger = copy.deepcopy(pod)
    del stranger["metadata"]["annotations"][SOURCE_ANNOTATION]
    return stranger
