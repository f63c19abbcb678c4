# SPDX-License-Identifier: Apache-2.0
"""Runs a module in this process, as Ansible would, against a fake switch."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

CLIENT_TESTS = Path(__file__).resolve().parents[2] / "p4/client"
sys.path.insert(0, str(CLIENT_TESTS))  # for the fake server

from fake_server import FakeSwitch  # noqa: E402

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module() -> RunModule:
    """``run_module("p4_table", check=False, diff=False, **arguments)`` returns the result."""

    def run(
        name: str, /, check: bool = False, diff: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        module = importlib.import_module(
            f"ansible_collections.flowferry.core.plugins.modules.{name}"
        )
        output = io.StringIO()
        internal = {"_ansible_check_mode": check, "_ansible_diff": diff}
        with (
            patch_module_args({**arguments, **internal}),
            redirect_stdout(output),
            pytest.raises(SystemExit),
        ):
            module.main()
        result = json.loads(output.getvalue())
        assert isinstance(result, dict)
        return result

    return run


@pytest.fixture(scope="session")
def sample_path() -> Path:
    return CLIENT_TESTS / "sample.p4info.txtpb"


@pytest.fixture
def switch(sample_path: Path) -> Iterator[FakeSwitch]:
    with FakeSwitch(p4info=sample_path.read_text(encoding="utf-8")) as fake:
        yield fake
