# SPDX-License-Identifier: Apache-2.0
"""The P4 modules' documentation says what their argument specifications say."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml

BASE = "ansible_collections.flowferry.core.plugins"
MODULES = ["p4_pipeline", "p4_table", "p4_table_info"]
ATTRIBUTES = {"check_mode", "diff_mode", "idempotent"}


def load(path: str) -> Any:
    return importlib.import_module(f"{BASE}.{path}")


def fragment() -> dict[str, Any]:
    documented = yaml.safe_load(load("doc_fragments.p4runtime").ModuleDocFragment.DOCUMENTATION)
    options = documented["options"]
    assert isinstance(options, dict)
    return options


def assert_same(spec: dict[str, Any], documented: dict[str, Any]) -> None:
    assert set(spec) == set(documented)
    for name, option in spec.items():
        for aspect in ("type", "default", "required", "choices", "elements"):
            fallback = False if aspect == "required" else None
            told = documented[name].get(aspect, fallback)
            assert told == option.get(aspect, fallback), f"{name}: {aspect}"
        assert documented[name]["description"]
        if "options" in option:
            assert_same(option["options"], documented[name]["suboptions"])


def test_the_fragment_is_the_connection_spec() -> None:
    assert_same(load("module_utils.p4runtime").ARG_SPEC, fragment())


@pytest.mark.parametrize("name", MODULES)
def test_the_options_are_the_argument_spec(name: str) -> None:
    module = load(f"modules.{name}")
    documented = yaml.safe_load(module.DOCUMENTATION)
    assert documented["module"] == name
    looking = ["flowferry.core.looking"] if name == "p4_table_info" else []
    expected = [*looking, "flowferry.core.p4runtime"]
    assert documented["extends_documentation_fragment"] == expected
    merged = fragment()
    for option, text in documented["options"].items():
        # As Ansible does it: what the module says adds to what the fragment says.
        merged[option] = {**merged.get(option, {}), **text}
    assert_same(module.ARGUMENTS, merged)
    attributes = set(documented.get("attributes", {}))
    for other in documented["extends_documentation_fragment"]:
        text = load(f"doc_fragments.{other.rpartition('.')[2]}").ModuleDocFragment.DOCUMENTATION
        attributes |= set(yaml.safe_load(text).get("attributes", {}))
    assert attributes == ATTRIBUTES


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_use_arguments_that_exist(name: str) -> None:
    module = load(f"modules.{name}")
    tasks = yaml.safe_load(module.EXAMPLES)
    for task in tasks:
        arguments = task[f"flowferry.core.{name}"]
        assert set(arguments) <= set(module.ARGUMENTS)
        assert task["delegate_to"] == "localhost"
    states = module.ARGUMENTS.get("state", {}).get("choices", [])
    shown = {task[f"flowferry.core.{name}"].get("state", "merged") for task in tasks}
    assert set(states) <= shown, "a state has no example"


@pytest.mark.parametrize("name", MODULES)
def test_return_values_are_described(name: str) -> None:
    for value in yaml.safe_load(load(f"modules.{name}").RETURN).values():
        assert value["description"] and value["returned"] and value["type"]
