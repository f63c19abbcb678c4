# SPDX-License-Identifier: Apache-2.0
"""Names of images in registries: HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import FlowferryError

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image by the registry that has it. Tag and digest may be empty, not both."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """FlowferryError when it names no registry: there is no default one here."""
        rest, _, digest = text.partition("@")
        registry, slash, path = rest.partition("/")
        repository, colon, tag = path.partition(":")
        if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
            raise FlowferryError(
                "bad_image",
                f'"{text}" names no registry; write it in full, such as '
                "registry.example.com/team/redis:checkpoint",
            )
        if not colon and not digest:
            tag = "latest"
        parts = ((_REPOSITORY, repository), (_TAG, tag or "latest"))
        good = all(pattern.fullmatch(part) for pattern, part in parts)
        if not good or (digest and not _DIGEST.fullmatch(digest)):
            raise FlowferryError(
                "bad_image",
                f'"{text}" cannot be the name of an image: HOST[:PORT]/REPOSITORY[:TAG][@DIGEST], '
                "the repository in lower case",
            )
        return cls(registry, repository, tag, digest)

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest where there is one."""
        return self.digest or self.tag

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}"
        text += f":{self.tag}" if self.tag else ""
        return text + (f"@{self.digest}" if self.digest else "")
