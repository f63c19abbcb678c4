# SPDX-License-Identifier: Apache-2.0
"""What kubeadm installs and runs, of programs that tools/build has made: packages and images.

    python programs.py OUTPUT VERSION NEXT DIRECTORY...

OUTPUT gets a layer of a host's root, which has an APT repository, and the roots of images. All of
it is there in two versions, so that there is one to upgrade to: NEXT is the same programs, in which
the number that they call themselves by is another one. Both numbers are of the same length.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

UNIT = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=1

[Install]
WantedBy=multi-user.target
"""
# How kubeadm and the kubelet's unit meet, as in Kubernetes' own packages.
DROP_IN = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS \
$KUBELET_EXTRA_ARGS
"""
# What holds a pod's namespaces; kubeadm's upgrades have a job of it, which is to end.
PAUSE = """\
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { _exit(0); }
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "-v")) return 0;
    signal(SIGINT, end);
    signal(SIGTERM, end);
    for (;;) if (wait(0) < 0) usleep(100000);
}
"""
PACKAGES: dict[str, dict[str, str]] = {
    "kubelet": {"usr/lib/systemd/system/kubelet.service": UNIT},
    "kubeadm": {"usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": DROP_IN},
    "kubectl": {},
}
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
OTHERS = ("etcd", "coredns")  # of which there is one version


def find(programs: list[Path], name: str) -> Path:
    """A program in one of the layers that tools/build has made."""
    for directory in programs:
        path = directory / "usr/local/bin" / name
        if path.exists():
            return path
    raise SystemExit(f"none of {[str(path) for path in programs]} has {name}: see tools/build")


def renumber(program: Path, old: str, new: str, target: Path) -> None:
    """The program, calling itself by another version."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if old == new:
        shutil.copy2(program, target)
        return
    if len(old) != len(new):
        raise SystemExit(f"{old} and {new} have to be of the same length")
    found = program.read_bytes()
    if f"v{old}".encode() not in found:
        raise SystemExit(f"{program} does not call itself v{old}")
    target.write_bytes(found.replace(f"v{old}".encode(), f"v{new}".encode()))
    target.chmod(0o755)


def package(name: str, program: Path, version: str, repository: Path) -> str:
    """Make a Debian package; what an index of packages has of it."""
    with tempfile.TemporaryDirectory(dir=repository) as made:
        root = Path(made) / "root"
        (root / "DEBIAN").mkdir(parents=True)
        control = (
            f"Package: {name}\nVersion: {version}-1\nArchitecture: amd64\n"
            f"Maintainer: Flowferry contributors\nDescription: {name}, for a test\n"
        )
        (root / "DEBIAN/control").write_text(control)
        (root / "usr/bin").mkdir(parents=True)
        os.link(program, root / "usr/bin" / name)
        for path, content in PACKAGES[name].items():
            (root / path).parent.mkdir(parents=True)
            (root / path).write_text(content)
        file = repository / f"{name}_{version}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", root, file]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"


def sign(repository: Path, index: str) -> None:
    """The repository's index, signed by a key of its own, which is beside it as text."""
    (repository / "Packages").write_text(index)
    digest, size = hashlib.sha256(index.encode()).hexdigest(), len(index.encode())
    release = f"Date: {_date()}\nSuite: lab\nCodename: lab\nArchitectures: amd64\n"
    (repository / "Release").write_text(f"{release}SHA256:\n {digest} {size} Packages\n")
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
        subprocess.run(
            [*gpg, "--quick-generate-key", "lab", "ed25519", "sign", "never"], check=True
        )
        clearsign = ["--clearsign", "--output", repository / "InRelease", repository / "Release"]
        subprocess.run([*gpg, *clearsign], check=True)
        subprocess.run(
            [*gpg, "--armor", "--output", repository / "key.asc", "--export"], check=True
        )
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def _date() -> str:
    done = subprocess.run(["date", "-Ru"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def pack(program: Path, path: str, target: Path) -> None:
    """The root of an image whose only file is a program."""
    with gzip.open(target, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w") as root:
        root.add(program, path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("version")
    parser.add_argument("next")
    parser.add_argument("programs", type=Path, nargs="+")
    asked = parser.parse_args()
    repository, images = asked.output / "layer/srv/kubernetes", asked.output / "images"
    for directory in (repository, images):
        directory.mkdir(parents=True)
    index = []
    with tempfile.TemporaryDirectory(dir=asked.output) as scratch:
        for version in (asked.version, asked.next):
            for name in (*PACKAGES, *CONTROL_PLANE):
                program = Path(scratch) / version / name
                renumber(find(asked.programs, name), asked.version, version, program)
                if name in PACKAGES:
                    index.append(package(name, program, version, repository))
                else:
                    pack(program, f"usr/local/bin/{name}", images / f"{name}-{version}.root")
    sign(repository, "\n".join(index))
    for name in OTHERS:
        pack(find(asked.programs, name), f"usr/local/bin/{name}", images / f"{name}.root")
    pause = asked.output / "pause"
    clang = ["clang", "-xc", "-O1", "-static", "-Wall", "-o", pause, "-"]
    subprocess.run(clang, input=PAUSE, text=True, check=True)
    pack(pause, "pause", images / "pause.root")


if __name__ == "__main__":
    main()
