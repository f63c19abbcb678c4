# SPDX-License-Identifier: Apache-2.0
"""The repository is a collection: it builds, and the documentation of its modules renders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
# Both commands take under a second; much longer means that they hang.
LIMIT = 60


def ansible(command: str, *arguments: str, temporary: Path) -> str:
    """Standard output of one of Ansible's commands, run in the checkout."""
    environment = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), NO_COLOR="1")
    environment["ANSIBLE_LOCAL_TEMP"] = str(temporary / "ansible")
    program = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [str(program), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("collection")
    output = ["--output-path", str(target / "built")]
    ansible("ansible-galaxy", "collection", "build", *output, str(ROOT), temporary=target)
    (built,) = (target / "built").glob("flowferry-core-*.tar.gz")
    return built


def test_the_collection_is_complete(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = set(content.getnames())
    for needed in (
        "README.md",
        "meta/runtime.yml",
        "playbooks/migrate.yml",
        "plugins/action/migration.py",
        "plugins/plugin_utils/migration/keeper.py",
        "p4/compiled/flowferry.p4info.txtpb",
        "p4/compiled/flowferry.json",
        "p4/flowferry_p4/client/session.py",
        "p4/flowferry_p4/switch/templates/program.c.j2",
        *(f"plugins/modules/{name}.py" for name in MODULES),
    ):
        assert needed in names, f"{needed} is missing: see build_ignore in galaxy.yml"


def test_the_collection_holds_nothing_that_is_generated(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = content.getnames()
    generated = (
        "__pycache__",
        "_cache/",
        ".hypothesis",
        ".ansible/",
        "ansible_collections/",
        ".git/",
    )
    wrong = [name for name in names if any(part in f"{name}/" for part in generated)]
    assert not wrong, f"add them to build_ignore in galaxy.yml: {wrong[:10]}"


def test_the_documentation_of_every_callback_renders(tmp_path: Path) -> None:
    for name in sorted(path.stem for path in (ROOT / "plugins" / "callback").glob("*.py")):
        full = f"flowferry.core.{name}"
        text = ansible("ansible-doc", "--type", "callback", full, temporary=tmp_path)
        assert f"CALLBACK {full} " in text, f"{full} is not rendered"


def test_the_documentation_of_every_module_renders(tmp_path: Path) -> None:
    names = [f"flowferry.core.{name}" for name in MODULES]
    text = ansible("ansible-doc", "--type", "module", *names, temporary=tmp_path)
    documents = json.loads(
        ansible("ansible-doc", "--json", "--type", "module", *names, temporary=tmp_path)
    )
    assert sorted(documents) == names
    for name in names:
        assert f"MODULE {name} " in text, f"{name} is not rendered"
        assert documents[name]["doc"]["description"], f"{name} has no description"
        assert documents[name]["examples"], f"{name} has no example"
        assert documents[name]["return"], f"{name} does not say what it returns"
