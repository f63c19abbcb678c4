#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files

short_description: Write several files and directories in one task

version_added: 0.1.0

description:
  - Brings directories and files to the content and mode that are given, all in one go. A task of
    ansible.builtin.copy or ansible.builtin.template for each of them takes tenths of a second.
  - Each file is replaced whole. What is not listed is left alone.

author:
  - Flowferry contributors (@flowferry)

extends_documentation_fragment:
  - flowferry.core.declarative

options:
  directories:
    description:
      - Directories that are to be there, before the files. Missing parents are made with the mode
        0755.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - The directory.
        type: path
        required: true
      mode:
        description:
          - Its permissions, in octal digits.
        type: str
        default: "0755"

  files:
    description:
      - The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - The file.
        type: path
        required: true
      content:
        description:
          - What it is to contain.
        type: str
        required: true
      mode:
        description:
          - Its permissions, in octal digits.
        type: str
        default: "0644"
      secret:
        description:
          - Whether its content is kept out of the diff.
        type: bool
        default: false
"""

EXAMPLES = r"""
- name: Configure the registry
  flowferry.core.host_files:
    directories:
      - {path: /etc/flowferry/registry, mode: "0700"}
    files:
      - path: /etc/flowferry/registry/config.yml
        content: "{{ lookup('ansible.builtin.template', 'config.yml.j2') }}"
      - path: /etc/flowferry/registry/htpasswd
        content: "{{ registry_user }}"
        mode: "0600"
        secret: true
"""

RETURN = r"""
paths:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/flowferry/registry/config.yml]
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, Any] = {
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "mode": {"type": "str", "default": "0755"},
        },
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "secret": {"type": "bool", "default": False},
        },
    },
}


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Bring everything to its state and tell what was done."""
    changed = []
    differences = []
    for wanted in params["directories"]:
        path, mode = Path(wanted["path"]), _mode(wanted["mode"])
        if not path.is_dir() or stat.S_IMODE(path.stat().st_mode) != mode:
            changed.append(str(path))
            if not check_mode:
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(mode)
    for wanted in params["files"]:
        difference = _ensure_file(wanted, check_mode=check_mode)
        if difference is not None:
            changed.append(wanted["path"])
            differences.append(difference)
    return {"changed": bool(changed), "paths": changed, "diff": differences}


def _ensure_file(wanted: dict[str, Any], *, check_mode: bool) -> dict[str, str] | None:
    """What was different; None if nothing was."""
    path, content, mode = Path(wanted["path"]), wanted["content"].encode(), _mode(wanted["mode"])
    there = path.is_file()
    before = path.read_bytes() if there else b""
    if there and before == content and stat.S_IMODE(path.stat().st_mode) == mode:
        return None
    if not check_mode:
        _replace(path, content, mode)
    name = str(path)
    if wanted["secret"]:
        told = {"before": "(a secret)\n" if there else "", "after": "(another secret)\n"}
    else:
        told = {"before": before.decode(errors="replace"), "after": wanted["content"]}
    return {"before_header": name, "after_header": name, **told}


def _replace(path: Path, content: bytes, mode: int) -> None:
    """At no time is it half written, or readable for more people than it is to be."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise ValueError(f'mode "{text}" is not written in octal digits, such as "0644"') from error


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
