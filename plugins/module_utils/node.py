# SPDX-License-Identifier: Apache-2.0
"""What a node can do: its kernel, CRIU, processor and container engines, as data."""

from __future__ import annotations

import base64
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .cgroup import ROOT
from .commands import run
from .errors import FlowferryError
from .runtimes.registry import RUNTIMES

# Features of the kernel that CRIU knows by these names, and what each is for.
FEATURES = {
    "mem_dirty_track": "copying memory in advance",
    "uffd-noncoop": "copying memory afterwards",
    "pidfd_store": "dumps of processes whose ids are used again",
}
_PROCESSOR = {"vendor_id": "vendor", "cpu family": "family", "model": "model", "model name": "name"}


def node_info() -> dict[str, Any]:
    """Everything, as the module node_info returns it."""
    return {
        "kernel": {"release": os.uname().release, "machine": os.uname().machine},
        "cgroup": {"version": cgroup_version(), "freezer": (ROOT / "freezer").is_dir()},
        "criu": {**criu(), "features": criu_features()},
        "runtimes": {name: kind.ability() for name, kind in RUNTIMES.items()},
        "cpu": {**processor(), "image": cpu_image()},
    }


def cgroup_version() -> int:
    """2 where there is nothing but the unified hierarchy."""
    return 2 if (ROOT / "cgroup.controllers").exists() else 1


def criu() -> dict[str, Any]:
    """Its version, and what `criu check` says of the kernel; a version of None: not installed."""
    if shutil.which("criu") is None:
        return {"version": None, "ok": False, "message": "criu is not installed"}
    version = run(["criu", "--version"]).splitlines()[0].split()[-1]
    try:
        message, works = run(["criu", "check"]).strip(), True
    except FlowferryError as error:
        message, works = error.details or str(error), False
    return {"version": version, "ok": works, "message": message}


def criu_features() -> dict[str, bool]:
    """Which of FEATURES the kernel has."""
    if shutil.which("criu") is None:
        return {}
    return {name: _succeeds(["criu", "check", "--feature", name]) for name in FEATURES}


def _succeeds(command: list[str]) -> bool:
    try:
        run(command)
    except FlowferryError:
        return False
    return True


def processor() -> dict[str, Any]:
    """Which processor it is, and its features by the kernel's names."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    fields = dict(re.findall(r"^(.*?)\s*: (.*)$", first, re.MULTILINE))
    known = {ours: fields[name] for name, ours in _PROCESSOR.items() if name in fields}
    return {**known, "features": sorted(fields.get("flags", "").split())}


def cpu_image() -> str:
    """What CRIU needs to know of this processor, for check_cpu() elsewhere (base64)."""
    if shutil.which("criu") is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="flowferry-") as directory:
        run(["criu", "cpuinfo", "dump", "--images-dir", directory])
        return base64.b64encode((Path(directory) / "cpuinfo.img").read_bytes()).decode()


def check_cpu(image: str) -> None:
    """Refuse unless what was dumped on the processor of ``image`` can be restored on this one."""
    with tempfile.TemporaryDirectory(prefix="flowferry-") as directory:
        (Path(directory) / "cpuinfo.img").write_bytes(base64.b64decode(image))
        try:
            run(["criu", "cpuinfo", "check", "--images-dir", directory])
        except FlowferryError as error:
            reason = error.details or str(error)
            raise FlowferryError(
                "cpu_differs",
                f"the processor here ({processor().get('name', 'unknown')}) lacks what programs "
                f"may use on the source's, as CRIU says: {reason[-300:]}; move to a node with the "
                "same or a newer processor",
                reason,
            ) from error


def check_kernel() -> None:
    """Refuse a node whose kernel CRIU cannot work with."""
    found = criu()
    if not found["ok"]:
        raise FlowferryError(
            "criu_check",
            f"CRIU says that it cannot work on this node's kernel: {found['message'][-300:]}; "
            "`criu check` repeats it",
            found["message"],
        )
