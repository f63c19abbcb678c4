# SPDX-License-Identifier: Apache-2.0
"""An upgrade is one step, kubeadm gets what it is to, and the version is that of the lab."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "kubernetes"
# Version of the kubelet, of the API server and the one that is wanted, whether the host is the
# control plane, and what is to come of it: a part of the message, or nothing when it is one step.
CASES: dict[str, tuple[str, str, str, str, str]] = {
    "next_minor": ("1.37.2", "1.37.2", "1.38.0", "control_plane", ""),
    "next_patch": ("1.37.2", "1.37.2", "1.37.5", "control_plane", ""),
    "same": ("1.37.2", "1.37.2", "1.37.2", "control_plane", ""),
    "node_after": ("1.37.2", "1.38.0", "1.38.0", "node", ""),
    "node_before": ("1.37.2", "1.37.2", "1.38.0", "node", "The control plane is 1.37.2 yet"),
    "two_minors": ("1.37.2", "1.37.2", "1.39.0", "control_plane", "go to 1.38 first"),
    "late_kubelet": ("1.36.1", "1.37.2", "1.38.0", "control_plane", "go to 1.37 first"),
    "back": ("1.37.2", "1.37.2", "1.36.9", "control_plane", "never back"),
    "patch_back": ("1.37.2", "1.37.2", "1.37.1", "control_plane", "never back"),
    "nonsense": ("1.37.2", "1.37.2", "latest", "control_plane", "One upgrade is one minor"),
}
PLAY = """
- hosts: all
  gather_facts: false
  vars_files: [{role}/vars/main.yml]
  vars: {defaults}
  tasks:
    - vars: {{kubernetes_version: "{{{{ wanted }}}}"}}
      block:
        - ansible.builtin.include_tasks: {role}/tasks/upgrade_check.yml
        - ansible.builtin.copy:
            content: ""
            dest: "{directory}/{{{{ inventory_hostname }}}}"
      rescue:
        - ansible.builtin.copy:
            content: "{{{{ ansible_failed_result.msg }}}}"
            dest: "{directory}/{{{{ inventory_hostname }}}}"
    - ansible.builtin.template:
        src: "{role}/templates/{{{{ item }}}}.yaml.j2"
        dest: "{directory}/{{{{ item }}}}.yaml"
      vars:
        kubernetes_api_address: 192.0.2.20
        kubernetes_node_address: 192.0.2.21
        kubernetes_version: 1.37.2
        kubernetes_proxy: false
        kubernetes_token:
          stdout: >-
            kubeadm join 192.0.2.20:6443 --token abcdef.0123456789abcdef
            --discovery-token-ca-cert-hash sha256:{digest}
      loop: [kubeadm_init, kubeadm_join]
      run_once: true
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of each case, and what was rendered, all in one run."""
    directory = tmp_path_factory.mktemp("hosts")
    names = ("kubernetes_kubelet_version", "kubernetes_api_version", "wanted", "kubernetes_part")
    hosts: dict[str, Any] = {
        name: dict(zip(names, case)) | {"kubernetes_form": "kubeadm"}
        for name, case in CASES.items()
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    # As vars of the play the defaults would be stronger than what a host says.
    told = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    own = {"kubernetes_form", "kubernetes_part", "kubernetes_version"}
    defaults = json.dumps({name: told[name] for name in told.keys() - own})
    play = PLAY.format(role=ROLE, directory=directory, digest="a" * 64, defaults=defaults)
    (directory / "play.yml").write_text(play)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "--connection=local"]
        + [f"--inventory={directory / 'hosts.yml'}", str(directory / "play.yml")]
        + [f"--extra-vars=ansible_python_interpreter={sys.executable}"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.parametrize("case", CASES)
def test_an_upgrade_is_one_step(case: str, directory: Path) -> None:
    told, expected = (directory / case).read_text(), CASES[case][-1]
    assert (expected in " ".join(told.split())) if expected else told == ""


def test_kubeadm_gets_the_gate_and_the_authorisation_of_checkpoints(directory: Path) -> None:
    init, cluster, kubelet = yaml.safe_load_all((directory / "kubeadm_init.yaml").read_text())
    assert init["skipPhases"] == ["addon/kube-proxy"]
    assert cluster["kubernetesVersion"] == "v1.37.2"
    assert kubelet["featureGates"] == {"ContainerCheckpoint": True}
    assert kubelet["authorization"] == {"mode": "Webhook"}
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["serverTLSBootstrap"] is True


def test_a_node_joins_with_the_token_and_the_hash_of_the_authority(directory: Path) -> None:
    join = yaml.safe_load((directory / "kubeadm_join.yaml").read_text())
    token = join["discovery"]["bootstrapToken"]
    assert token["token"] == "abcdef.0123456789abcdef"
    assert token["caCertHashes"] == ["sha256:" + "a" * 64]


def test_the_version_is_that_of_the_lab() -> None:
    """The roles are tried with it; it stands in the defaults for users, in go.mod for the lab."""
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    built = (ROOT / "tools" / "kubernetes" / "go.mod").read_text()
    found = re.search(r"^\s+k8s\.io/kubernetes v(\S+)", built, re.MULTILINE)
    assert found and defaults["kubernetes_version"] == found[1]
