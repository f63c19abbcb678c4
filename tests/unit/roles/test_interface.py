# SPDX-License-Identifier: Apache-2.0
"""Every role has the same interface: a state, tags, options that are described, and a scenario.

What a role lacks stands below with the reason. A reason that is not needed any more fails, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
TAGS = ("preflight", "install", "configure", "verify", "remove")

LAB = "makes the embedded lab, which playbooks/teardown.yml ends as a whole"
# {role: {what it lacks: why}}
EXCEPTIONS: dict[str, dict[str, str]] = {
    "lab_root": {
        "state": f"{LAB}; it fills the cache",
        "scenario": "its cache outlives a scenario",
    },
    "lab_host": {
        "state": f"{LAB}; a host is started or stopped",
        "scenario": "the end of each scenario is its removal",
    },
    "lab_cluster": {"state": f"{LAB}; it fills the cache", "scenario": "tried by kubernetes'"},
    "containerd": {
        "install": "it comes as a package of the host, or as a layer of the lab",
        "scenario": "tried by kubernetes': alone it has no pods",
    },
    "kubernetes_pki": {
        "preflight": "its one task looks at everything before it writes",
        "install": "it makes files on the controller",
        "scenario": "tried by kubernetes'",
    },
    "monitoring": {"scenario": "tried by provision's, which has something to watch"},
    "p4_switch": {"scenario": "tried by provision's, through which every host reaches every other"},
    "pod_network": {"scenario": "tried by kubernetes': alone it has no pods"},
    "preflight": {
        **dict.fromkeys(("state", "scenario"), "it changes nothing, so there is nothing to remove"),
    },
    "p4_dataplane": {"scenario": "tried by the system tests: it needs a cluster of its own"},
    "prepared_workload": {"scenario": "tried by kubernetes': alone it has no workloads"},
    "registry": {"scenario": "tried by provision's and kubernetes', which pull from it"},
}
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def options(role: str) -> dict[str, Any]:
    found: dict[str, Any] = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    return found["argument_specs"]["main"]["options"] or {}


def defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = load(ROOT / "roles" / role / "defaults" / "main.yml")
    return found


def file_of(task: dict[str, Any]) -> str:
    """The file that a task imports or includes, with its tag for everything in it; or nothing."""
    included = task.get("ansible.builtin.include_tasks", {})
    if included and included["apply"]["tags"] == task["tags"]:
        return str(included["file"])
    return str(task.get("ansible.builtin.import_tasks", ""))


def phases(role: str) -> dict[str, dict[str, Any]]:
    """The tasks of tasks/main.yml that bring a file, by the one tag that each of them has."""
    tasks = load(ROOT / "roles" / role / "tasks" / "main.yml")
    return {
        task["tags"][0]: task for task in tasks if len(task.get("tags", [])) == 1 and file_of(task)
    }


def lacks(role: str) -> set[str]:
    """What the role has no reason to be without, unless it is excepted."""
    missing = set()
    state = options(role).get(f"{role}_state", {})
    if state.get("choices") != ["present", "absent"] or state.get("default") != "present":
        missing.add("state")
    else:
        missing |= set(TAGS) - phases(role).keys()
    scenario = ROOT / "molecule" / role / "molecule.yml"
    if not scenario.exists() or "side_effect" not in load(scenario)["scenario"]["test_sequence"]:
        missing.add("scenario")
    return missing


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_the_whole_interface(role: str) -> None:
    missing, excepted = lacks(role), EXCEPTIONS.get(role, {}).keys()
    assert missing == set(excepted), (
        f"{role} lacks {sorted(missing - excepted)}, and is excepted from "
        f"{sorted(excepted - missing)} for nothing"
    )


@pytest.mark.parametrize("role", [r for r in ROLES if "state" not in EXCEPTIONS.get(r, {})])
def test_phases_go_by_the_state(role: str) -> None:
    for tag, task in phases(role).items():
        wanted = "absent" if tag == "remove" else "present"
        conditions = task["when"] if isinstance(task["when"], list) else [task["when"]]
        assert f"{role}_state == '{wanted}'" in conditions, f"{role}: {tag}"
        assert file_of(task) == f"{tag}.yml"


@pytest.mark.parametrize("role", ROLES)
def test_options_are_described_and_default_to_what_they_say(role: str) -> None:
    described, given = options(role), defaults(role)
    assert described.keys() == given.keys()
    for name, option in described.items():
        assert option["description"], name
        assert name.startswith(f"{role}_"), name
        # What depends on the host, or on other options, no specification can say.
        if "default" in option and "{{" not in str(given[name]):
            assert option["default"] == given[name], name


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_commented(role: str) -> None:
    """Each paragraph of defaults begins with a comment; options that belong together share it."""
    text = (ROOT / "roles" / role / "defaults" / "main.yml").read_text().split("---\n", 1)[1]
    bare = [part for part in text.strip().split("\n\n") if not part.lstrip().startswith("#")]
    assert not bare, f"{role}: no comment above {bare}"


@pytest.mark.parametrize(
    "scenario", sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
)
def test_scenarios_check_converge_repeat_and_use(scenario: str) -> None:
    sequence = load(ROOT / "molecule" / scenario / "molecule.yml")["scenario"]["test_sequence"]
    steps = ["create", "converge", "idempotence", "verify", "destroy"]
    assert [step for step in sequence[1:] if step in steps] == steps
    if "side_effect" in sequence:
        assert sequence.index("check") < sequence.index("converge")
        assert sequence.index("verify") < sequence.index("side_effect")
        playbooks = load(ROOT / "molecule" / scenario / "molecule.yml")["ansible"]["playbooks"]
        assert (ROOT / "molecule" / scenario / playbooks["side_effect"]).exists()


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_registered_over_a_variable_of_the_role(role: str) -> None:
    """It would be in its place from then on, wherever that is used."""
    files = [file for part in ("defaults", "vars") for file in _files(role, part)]
    variables = {name for file in files for name in yaml.safe_load(file.read_text()) or {}}
    tasks = "\n".join(file.read_text() for file in _files(role, "tasks"))
    assert not variables & set(re.findall(r"^ *register: (\w+)$", tasks, re.MULTILINE))


def _files(role: str, part: str) -> list[Path]:
    return sorted((ROOT / "roles" / role / part).glob("*.yml"))


def test_what_is_hidden_can_be_shown() -> None:
    """A scenario that fails has the reason in its output: it shows what tasks hide elsewhere."""
    tasks = [path.read_text() for path in (ROOT / "roles").glob("*/tasks/*.yml")]
    hidden = {line.strip() for text in tasks for line in text.splitlines() if "no_log:" in line}
    assert hidden == {'no_log: "{{ not show_secrets | default(false) | bool }}"'}
    for path in (ROOT / "molecule").glob("*/molecule.yml"):
        given = load(path)["ansible"]["executor"]["args"]["ansible_playbook"]
        assert any("show_secrets=true" in one for one in given), path
