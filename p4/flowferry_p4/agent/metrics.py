# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of itself, in Prometheus's text format, and whether it is well."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .reconcile import Result

_HELP = {
    "passes_total": ("counter", "Passes over the switch, by how they ended."),
    "writes_total": ("counter", "Updates that passes wrote to the switch."),
    "entries": ("gauge", "Entries that the switch should have, as of the last pass."),
    "problems": ("gauge", "What is left out of the tables, by code."),
    "services_deferred": ("gauge", "Services that wait for a migration."),
    "pods": ("gauge", "Pods that are connected to the switch."),
    "last_pass_seconds": ("gauge", "How long the last pass took."),
    "last_success_timestamp_seconds": ("gauge", "When a pass last succeeded."),
    "cni_calls_total": ("counter", "Calls of the CNI plugin, by command and CNI's error code."),
    "cni_seconds_total": ("counter", "Seconds that calls of the CNI plugin took, by command."),
}


class Metrics:
    """Numbers by name and labels; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[tuple[str, str]] = Counter()
        self._ready = False
        self._reason = "no pass has succeeded yet"

    def passed(self, result: Result, pods: int, seconds: float) -> None:
        with self._lock:
            for key in [key for key in self._values if key[0] == "problems"]:
                del self._values[key]
            for problem in result.problems:
                self._values["problems", f'{{code="{problem.code}"}}'] += 1
            self._values["passes_total", '{result="ok"}'] += 1
            self._values["writes_total", ""] += result.writes
            self._values["entries", ""] = result.entries
            self._values["services_deferred", ""] = len(result.deferred)
            self._values["pods", ""] = pods
            self._values["last_pass_seconds", ""] = seconds  # type: ignore[assignment]
            self._values["last_success_timestamp_seconds", ""] = int(time.time())
            self._ready, self._reason = True, "ok"

    def failed(self, reason: str) -> None:
        with self._lock:
            self._values["passes_total", '{result="failed"}'] += 1
            self._ready, self._reason = False, reason

    def called(self, command: str, code: int, seconds: float) -> None:
        known = command if command in ("ADD", "DEL", "CHECK", "GC", "STATUS") else "other"
        with self._lock:
            self._values["cni_calls_total", f'{{command="{known}",code="{code}"}}'] += 1
            self._values["cni_seconds_total", f'{{command="{known}"}}'] += seconds  # type: ignore[assignment]

    @property
    def ready(self) -> tuple[bool, str]:
        with self._lock:
            return self._ready, self._reason

    def text(self) -> str:
        with self._lock:
            values = sorted(self._values.items())
        lines = []
        for name, (kind, about) in _HELP.items():
            full = f"flowferry_agent_{name}"
            lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}"]
            lines += [f"{full}{labels} {value}" for (n, labels), value in values if n == name]
        return "\n".join([*lines, ""])


def serve(host: str, port: int, metrics: Metrics) -> ThreadingHTTPServer:
    """/metrics; /readyz, whether the last pass succeeded; /healthz, whether anybody is there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready, reason = metrics.ready
            answers = {
                "/metrics": (200, metrics.text()),
                "/healthz": (200, "ok\n"),
                "/readyz": (200 if ready else 503, f"{reason}\n"),
            }
            status, text = answers.get(self.path, (404, "there are /metrics, /healthz, /readyz\n"))
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            """Probes come every few seconds; nobody wants to read of them."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
