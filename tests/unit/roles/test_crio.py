# SPDX-License-Identifier: Apache-2.0
"""The role crio refuses what cannot restore, and renders the setting that a version knows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
OLD = "# enable_criu_support = true\n[crio.image]\n"
NEW = '# enable_criu_support = true\n[crio.checkpoint_restore]\n# container_level_enabled = ""\n'
# What crio says of its version, the settings that it shows, whether there is a crictl, and what is
# to come of it: a part of the message, or of the settings that are written.
CASES = {
    "missing": ("", "", True, "has no CRI-O on PATH"),
    "too_old": ("1.30.2", OLD, True, "has CRI-O 1.30.2, and pods are moved with 1.36 or later"),
    "without": ("1.36.1", "[crio.image]\n", True, "cannot restore containers"),
    "no_client": ("1.36.1", NEW, False, "has no crictl"),
    "before": ("1.36.0", OLD, True, "enable_criu_support = true"),
    "after": ("1.36.1", NEW, True, 'container_level_enabled = "checkpoint_restore"'),
}
PLAY = """
- hosts: all
  gather_facts: false
  vars_files: [{role}/vars/main.yml, {role}/defaults/main.yml]
  environment: {{PATH: "{directory}/{{{{ inventory_hostname }}}}:/usr/bin:/bin"}}
  tasks:
    - block:
        - ansible.builtin.include_tasks: {role}/tasks/check.yml
        - ansible.builtin.template:
            src: {role}/templates/crio.conf.j2
            dest: "{directory}/{{{{ inventory_hostname }}}}/out"
      rescue:
        - ansible.builtin.copy:
            content: "{{{{ ansible_failed_result.msg }}}}"
            dest: "{directory}/{{{{ inventory_hostname }}}}/out"
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def write_programs(directory: Path, version: str, shown: str, has_client: bool) -> None:
    directory.mkdir()
    if version:
        (directory / "shown").write_text(shown)
        write_program(
            directory / "crio",
            f'[ "$1" = config ] && exec cat {directory}/shown\necho "crio version {version}"',
        )
    if has_client:
        write_program(directory / "crictl", "echo crictl version v1.37.0")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each case, all of them in one run."""
    directory = tmp_path_factory.mktemp("hosts")
    for name, (version, shown, has_client, _) in CASES.items():
        write_programs(directory / name, version, shown, has_client)
    playbook = directory / "play.yml"
    playbook.write_text(PLAY.format(role=ROOT / "roles" / "crio", directory=directory))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "--connection=local"]
        + [f"--inventory={','.join(CASES)},", str(playbook)]
        + [f"--extra-vars=ansible_python_interpreter={sys.executable}"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: " ".join((directory / name / "out").read_text().split()) for name in CASES}


@pytest.mark.parametrize("case", CASES)
def test_what_the_role_makes_of_a_crio(case: str, outcomes: dict[str, str]) -> None:
    assert CASES[case][-1] in outcomes[case]


def test_a_version_is_given_only_the_setting_that_it_knows(outcomes: dict[str, str]) -> None:
    assert "enable_criu_support" not in outcomes["after"]
    assert "container_level_enabled" not in outcomes["before"]


def test_defaults_are_those_that_the_specification_tells() -> None:
    told = yaml.safe_load((ROOT / "roles/crio/meta/argument_specs.yml").read_text())
    options = told["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((ROOT / "roles/crio/defaults/main.yml").read_text())
    assert {name: one["default"] for name, one in options.items()} == defaults
