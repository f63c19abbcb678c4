# SPDX-License-Identifier: Apache-2.0
"""What the role p4_dataplane renders beyond what a cluster of the lab checks; and its images."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "p4_dataplane"
# Fields of security.openshift.io/v1, as that API is published; an API server of molecule/kubernetes
# checks them.
CONSTRAINTS = {
    *("allowHostDirVolumePlugin", "allowHostIPC", "allowHostNetwork", "allowHostPID"),
    *("allowHostPorts", "allowPrivilegeEscalation", "allowPrivilegedContainer"),
    *("allowedCapabilities", "allowedFlexVolumes", "allowedUnsafeSysctls", "apiVersion"),
    *("defaultAddCapabilities", "defaultAllowPrivilegeEscalation", "forbiddenSysctls", "fsGroup"),
    *("groups", "kind", "metadata", "priority", "readOnlyRootFilesystem"),
    *("requiredDropCapabilities", "runAsUser", "seLinuxContext", "seccompProfiles"),
    *("supplementalGroups", "userNamespaceLevel", "users", "volumes"),
}
REQUIRED = {
    *("allowHostDirVolumePlugin", "allowHostIPC", "allowHostNetwork", "allowHostPID"),
    *("allowHostPorts", "allowPrivilegedContainer", "allowedCapabilities"),
    *("defaultAddCapabilities", "priority", "readOnlyRootFilesystem", "requiredDropCapabilities"),
    "volumes",
}


def openshift(pool: str) -> list[dict[str, Any]]:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["b64encode"] = lambda text: base64.b64encode(text.encode()).decode()
    template = environment.from_string((ROLE / "templates/openshift.yaml.j2").read_text())
    options = {"p4_dataplane_namespace": "flowferry-system", "p4_dataplane_machine_pool": pool}
    return list(yaml.safe_load_all(template.render(options)))


def test_constraints_allow_what_the_daemonset_asks_for() -> None:
    (found,) = openshift("")
    assert set(found) <= CONSTRAINTS and set(found) >= REQUIRED
    manifest = (ROLE / "templates/manifest.yaml.j2").read_text()
    asked = {name for line in re.findall(r"add: \[(.*?)\]", manifest) for name in line.split(", ")}
    assert asked <= set(found["allowedCapabilities"])
    assert "privileged: true" not in manifest


def test_a_machine_configuration_has_crio_take_checkpoints() -> None:
    found = openshift("worker")[1]
    assert found["apiVersion"] == "machineconfiguration.openshift.io/v1"
    labels = found["metadata"]["labels"]
    assert labels == {"machineconfiguration.openshift.io/role": "worker"}
    (file,) = found["spec"]["config"]["storage"]["files"]
    content = base64.b64decode(file["contents"]["source"].partition("base64,")[2]).decode()
    assert "enable_criu_support = true" in content


def test_the_images_have_the_same_packages() -> None:
    defaults = yaml.safe_load((ROOT / "roles/lab_cluster/defaults/main.yml").read_text())
    container = (ROOT / "deploy/dataplane/Containerfile").read_text()
    (line,) = re.findall(r"--no-install-recommends (.*?) *\\", container)
    assert set(line.split()) - {"python3-pip"} == {*defaults["lab_cluster_dataplane_packages"]}
