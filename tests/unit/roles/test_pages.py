# SPDX-License-Identifier: Apache-2.0
"""Each role has its page, which says what its argument_specs say now."""

from __future__ import annotations

from tools import role_pages


def test_pages_are_fresh() -> None:
    found = {path.name: path.read_text() for path in role_pages.PAGES.glob("*.md")}
    made = role_pages.pages()
    stale = sorted(name for name in found.keys() | made.keys() if found.get(name) != made.get(name))
    assert not stale, f"run `make role-pages`, and commit docs/roles: {stale}"


def test_a_page_has_options_defaults_and_tags() -> None:
    page = role_pages.pages()["podman.md"]
    assert '| `podman_runtime` | str | `"runc"` | The OCI runtime. |' in page
    assert "Tags: `preflight`, `install`, `configure`, `verify`, `remove`." in page
    assert "`podman_images.archive`" in page
