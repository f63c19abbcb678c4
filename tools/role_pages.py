# SPDX-License-Identifier: Apache-2.0
"""Writes docs/roles/: a page for each role, from what its argument_specs and its tags say.

python tools/role_pages.py, or `make role-pages`; a test fails when a page is stale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "roles"
HEAD = "<!-- SPDX-License-Identifier: Apache-2.0 -->\n"
TAGS = ("preflight", "install", "configure", "verify", "remove")


def roles() -> list[str]:
    """Names of the collection's roles."""
    return sorted(path.name for path in (ROOT / "roles").iterdir())


def pages() -> dict[str, str]:
    """All pages by their file names."""
    made = {f"{role}.md": _page(role) for role in roles()}
    return {"README.md": _index(), **made}


def _load(role: str, *parts: str) -> Any:
    return yaml.safe_load((ROOT / "roles" / role).joinpath(*parts).read_text())


def _specs(role: str) -> dict[str, Any]:
    found: dict[str, Any] = _load(role, "meta", "argument_specs.yml")["argument_specs"]
    return found


def _index() -> str:
    rows = [
        f"| [{role}]({role}.md) | {_words(_specs(role)['main']['short_description'])} |"
        for role in roles()
    ]
    head = (
        "# Roles\n\nWritten by `make role-pages` from each role's `meta/argument_specs.yml`. The "
        "roles that have tags run\nin parts by them: "
        f"{', '.join(f'`{tag}`' for tag in TAGS)}.\n\n| role | what it makes |\n|---|---|\n"
    )
    return HEAD + head + "\n".join(rows) + "\n"


def _page(role: str) -> str:
    parts = [f"# {role}\n"]
    for name, spec in _specs(role).items():
        parts += _entry_point(role, name, spec)
    if tags := _tags(role):
        parts.append(f"Tags: {', '.join(f'`{tag}`' for tag in tags)}.\n")
    parts.append("Written by `make role-pages` from the role's `meta/argument_specs.yml`.\n")
    return HEAD + "\n".join(parts)


def _entry_point(role: str, name: str, spec: dict[str, Any]) -> Iterator[str]:
    if name != "main":
        yield f"## {name}\n\n`tasks_from: {name}`. {_words(spec['short_description'])}.\n"
    yield " ".join(map(_words, _list_of(spec["description"]))) + "\n"
    if spec.get("options"):
        yield "| option | type | default | what it says |\n|---|---|---|---|"
        yield "\n".join(_rows(role, spec["options"])) + "\n"


def _rows(role: str, options: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = option["type"]
        if "elements" in option:
            kind += f" of {option['elements']}"
        said = " ".join(map(_words, _list_of(option["description"])))
        if "choices" in option:
            said += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        yield f"| `{above}{name}` | {kind} | {_default(role, name, option)} | {said} |"
        yield from _rows(role, option.get("options", {}), f"{above}{name}.")


def _default(role: str, name: str, option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    if "default" in option:
        return f"`{json.dumps(option['default'])}`"
    given = _load(role, "defaults", "main.yml").get(name)
    return "see `defaults/main.yml`" if given else ""


def _tags(role: str) -> list[str]:
    found = {tag for task in _load(role, "tasks", "main.yml") for tag in task.get("tags", [])}
    return [tag for tag in TAGS if tag in found]


def _list_of(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text


def _words(text: str) -> str:
    """Ansible's markup as Markdown's, in one line, fit for a cell of a table."""
    marked = re.sub(r"\b[VOCMPI]\(([^)]*?)(#role)?\)", r"`\1`", " ".join(text.split()))
    return marked.replace("|", "\\|")


def main() -> None:
    """Write all pages, and remove those of roles that are gone."""
    PAGES.mkdir(exist_ok=True)
    written = pages()
    for path in PAGES.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main()
