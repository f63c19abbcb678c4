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
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
# Both commands take under a second; much longer means that they hang.
LIMIT = 60


def ansible(command: str, *arguments: str, temporary: Path, **variables: str) -> str:
    """Standard output of one of Ansible's commands, run in the checkout."""
    environment = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), NO_COLOR="1")
    environment |= variables
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


@pytest.fixture(scope="module")
def installed(archive: Path) -> dict[str, str]:
    """The environment of somebody who has the collection from its archive, and no checkout."""
    place = archive.parent.parent / "installed"
    settings = archive.parent.parent / "ansible.cfg"
    settings.write_text("[defaults]\n")
    variables = {
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_COLLECTIONS_PATH": str(place),
        "PYTHONPATH": str(place / "ansible_collections" / "flowferry" / "core" / "p4"),
    }
    # Collections that it depends on come with the package ansible here.
    install = ["collection", "install", str(archive), "--no-deps", "--offline"]
    ansible("ansible-galaxy", *install, "-p", str(place), temporary=archive.parent, **variables)
    return variables


def test_playbooks_run_by_their_full_names(installed: dict[str, str], tmp_path: Path) -> None:
    """It is the installed collection that is found, and each of its playbooks parses."""
    found = ansible(
        "ansible-galaxy", "collection", "list", "flowferry.core", temporary=tmp_path, **installed
    )
    assert installed["ANSIBLE_COLLECTIONS_PATH"] in found
    inventory = ROOT / "inventories" / "example" / "hosts.yml"
    names = [f"flowferry.core.{name}" for name in PLAYBOOKS]
    said = ansible(
        "ansible-playbook",
        f"--inventory={inventory}",
        "--syntax-check",
        *names,
        temporary=tmp_path,
        **installed,
    )
    assert said.count("playbook: ") == len(names)


def test_the_example_provisions_all_that_it_names(
    installed: dict[str, str], tmp_path: Path
) -> None:
    inventory = ROOT / "inventories" / "example" / "hosts.yml"
    said = ansible(
        "ansible-playbook",
        f"--inventory={inventory}",
        "--list-hosts",
        "--list-tags",
        "flowferry.core.provision",
        temporary=tmp_path,
        **installed,
    )
    for host in ("node1", "node2", "node3", "edge", "registry", "localhost"):
        assert f"      {host}\n" in said
    for tag in ("preflight", "install", "configure", "verify"):
        assert tag in said


def test_an_execution_environment_gets_what_is_declared(archive: Path) -> None:
    declared = yaml.safe_load((ROOT / "meta" / "execution-environment.yml").read_text())
    with tarfile.open(archive) as content:
        names = set(content.getnames())
    assert set(declared["dependencies"].values()) <= names
    environment = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    (collection,) = environment["dependencies"]["galaxy"]["collections"]
    assert Path(collection["name"]).name == archive.name
    # The controller's packages, at the versions that the lock file has.
    locked = (ROOT / "requirements.lock.txt").read_text().lower()
    versions = dict(line.split("==") for line in locked.splitlines() if "==" in line)
    lines = (ROOT / declared["dependencies"]["python"]).read_text().splitlines()
    wanted = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    assert {"finsy", "grpcio", "cryptography", "kubernetes"} <= {one.name for one in wanted}
    for one in wanted:
        assert one.specifier.contains(versions[one.name]), f"{one} but {versions[one.name]}"


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
