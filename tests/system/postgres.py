# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL as containers of the tests run it, in an image of plain Debian packages."""

from __future__ import annotations

import shlex

from demo.lab_control import Lab

SYS_RESOURCE = 1 << 24
"""The capability to read and set the limits of other users' processes."""
PASSWD = """root::0:0:root:/root:/bin/sh
sshd:x:100:65534:sshd:/run/sshd:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = "root:x:0:\nnogroup:x:65534:\n"
POSTGRES = """
import glob, os, pathlib, subprocess

programs = glob.glob("/usr/lib/postgresql/*/bin")[0]
data = pathlib.Path("/var/lib/data/it")
is_new = not data.exists()
if is_new:
    data.mkdir(parents=True)
    os.chown(data, 65534, 65534)
if os.path.exists("/srv/nobody.so"):
    os.environ["LD_PRELOAD"] = "/srv/nobody.so"
else:
    os.setgid(65534)
    os.setuid(65534)
initdb = [f"{programs}/initdb", "-D", data, "--auth=trust", "--username=it", "--locale=C"]
if is_new:
    subprocess.run(initdb, check=True)
    with (data / "pg_hba.conf").open("a") as allowed:
        allowed.write("host all all all trust")
server = f"{programs}/postgres"
options = ["-c", "listen_addresses=*", "-c", "unix_socket_directories="]
options += ["-c", f"dynamic_shared_memory_type={os.environ.get('SHARED_MEMORY', 'posix')}"]
os.execv(server, [server, "-D", data, *options])
"""
NOBODY = "int getuid(void) { return 65534; } int geteuid(void) { return 65534; }"
"""PostgreSQL refuses to be root, and root may lack the right to dump others (code other_user)."""


def build_nobody(lab: Lab, path: str) -> bool:
    """What PostgreSQL is told to preload so that it can be root, on node1; False if it need not."""
    rights = int(lab.run("node1", "awk '/CapBnd/ {print $2}' /proc/self/status"), 16)
    if rights & SYS_RESOURCE:
        return False
    lab.run("node1", f"echo {shlex.quote(NOBODY)} | clang -xc -shared -fPIC -o {path} -")
    return True
