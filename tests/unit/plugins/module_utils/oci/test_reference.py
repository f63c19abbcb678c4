# SPDX-License-Identifier: Apache-2.0
"""Names of images are taken apart, and refused when no registry could have them."""

from __future__ import annotations

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.errors import FlowferryError
from ansible_collections.flowferry.core.plugins.module_utils.oci.reference import Reference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:5000/redis:lab", ("127.0.0.1:5000", "redis", "lab", "")),
        ("localhost/a/b_c/d-e", ("localhost", "a/b_c/d-e", "latest", "")),
        (f"example.com/redis@{DIGEST}", ("example.com", "redis", "", DIGEST)),
        (f"example.com/redis:7@{DIGEST}", ("example.com", "redis", "7", DIGEST)),
    ],
)
def test_parts(text: str, parts: tuple[str, str, str, str]) -> None:
    found = Reference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize(
    "text",
    ["redis", "library/redis:7", "example.com/Redis", "example.com/", "example.com/a:b c"]
    + ["example.com/redis@sha256:12", "example.com/../redis", ""],
)
def test_what_no_registry_has_is_refused(text: str) -> None:
    with pytest.raises(FlowferryError) as refused:
        Reference.parse(text)
    assert refused.value.code == "bad_image"
