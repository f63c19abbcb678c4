# SPDX-License-Identifier: Apache-2.0
"""pycriu for the tests: PyPI has none, but the root of the lab's hosts does, and some systems."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGES = "usr/lib/python3/dist-packages/pycriu"


def _found() -> Path | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowferry"
    places = [*sorted(cache.glob(f"root-*/{_PACKAGES}")), Path("/") / _PACKAGES]
    return next((place for place in places if place.is_dir()), None)


@pytest.fixture(scope="session")
def pycriu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes pycriu importable, and nothing else of where it is found."""
    found = _found()
    if found is None:
        pytest.skip("there is no pycriu yet: `make lab-root` brings it, as root")
    place = tmp_path_factory.mktemp("pycriu")
    (place / "pycriu").symlink_to(found)
    before = list(sys.path)
    sys.path.append(str(place))
    yield
    sys.path[:] = before
