#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""The CNI plugin: hands what it is asked over to the agent on this node, and prints the answer.

The file stands for itself, with the standard library only, so that it can be copied to where
container runtimes look for plugins, and starts within some milliseconds.
"""

import json
import os
import socket
import sys

VERSIONS = ["1.0.0", "1.1.0"]
SOCKET = "/run/flowferry/agent.sock"
TRY_AGAIN, NOT_AVAILABLE, NOT_DECODED, BAD_VARIABLES = 11, 50, 6, 4
SECONDS = 30.0
"""Longer than anything takes; container runtimes give up later."""


def main() -> int:
    command = os.environ.get("CNI_COMMAND", "")
    if not command:
        return fail("1.1.0", BAD_VARIABLES, "CNI_COMMAND is not set; a container runtime sets it")
    try:
        network = json.loads(sys.stdin.read() or "{}")
        if not isinstance(network, dict):
            raise ValueError("not an object")
    except ValueError as error:
        return fail("1.1.0", NOT_DECODED, f"the network configuration is not JSON: {error}")
    version = str(network.get("cniVersion") or "1.1.0")
    if command == "VERSION":
        print(json.dumps({"cniVersion": version, "supportedVersions": VERSIONS}))
        return 0
    address = str(network.get("socket") or SOCKET)
    request = {
        "variables": {key: text for key, text in os.environ.items() if key.startswith("CNI_")},
        "network": network,
    }
    try:
        answer = ask(address, json.dumps(request).encode())
    except (OSError, ValueError) as error:
        code = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN
        text = f"the agent does not answer at {address}: {error}; see that it runs on this node"
        return fail(version, code, text)
    if answer["output"]:
        print(answer["output"])
    return int(answer["exit"])


def ask(address: str, request: bytes) -> dict:  # type: ignore[type-arg]  # for any Python 3
    """One request, one answer, each ended by the end of its direction."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        connection.connect(address)
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            part = connection.recv(65536)
            if not part:
                return json.loads(answer)  # type: ignore[no-any-return]
            answer += part


def fail(version: str, code: int, text: str) -> int:
    print(json.dumps({"cniVersion": version, "code": code, "msg": f"flowferry: {text}"}))
    return 1


if __name__ == "__main__":
    sys.exit(main())
