# SPDX-License-Identifier: Apache-2.0
"""Other people's clients, TLS, and clients that do not keep up."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import finsy as fy
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from finsy.proto import p4r, p4r_grpc

from tests.integration.switch_bench import (
    DEADLINE,
    P4INFO,
    PROGRAM,
    Bench,
    Controller,
    Namespace,
    SwitchProcess,
    batch_errors,
    bench,
)

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flowferry"
SHELL = CACHE / "p4runtime-shell"
"""An environment of its own: p4runtime-shell wants other versions than this project."""
SHELL_PACKAGES = ("p4runtime-shell==0.0.6", "grpcio==1.85.3", "protobuf==3.20.3")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, hosts=1) as running:
        yield running


# --- finsy ----------------------------------------------------------------------------------------
async def _finsy(address: str) -> tuple[int, list[str]]:
    """Load the program, write and read entries, as finsy does it."""
    options = fy.SwitchOptions(p4info=P4INFO, p4blob=PROGRAM, device_id=1)
    async with fy.Switch("sw1", address, options) as switch:
        entry = fy.P4TableEntry(
            "route",
            match=fy.Match(destination="192.0.2.0/24"),
            action=fy.Action(
                "forward",
                port=1,
                source_mac="02:ff:00:00:00:01",
                destination_mac="02:00:00:00:00:05",
            ),
        )
        await switch.insert([entry])
        refused: list[str] = []
        try:
            await switch.insert([entry])
        except fy.P4ClientError as error:
            refused = [detail.canonical_code.name for detail in error.details.values()]
        found = [e async for e in switch.read([fy.P4TableEntry("route")])]
        await switch.delete_all()
        return len(found), refused


def test_finsy(made: Bench) -> None:
    found, refused = asyncio.run(asyncio.wait_for(_finsy(made.switch.address), DEADLINE))
    assert found == 1
    assert refused == ["ALREADY_EXISTS"]


# --- p4runtime-shell ------------------------------------------------------------------------------
SHELL_SCRIPT = """
import sys
import p4runtime_sh.shell as sh
from p4runtime_sh.p4runtime import P4RuntimeWriteException

def tell(*words):
    print("told:", *words)

def entries():
    return len(list(sh.TableEntry("ingress.route").read()))

sh.setup(
    device_id=1, grpc_addr=sys.argv[1], election_id=(0, 5),
    config=sh.FwdPipeConfig(sys.argv[2], sys.argv[3]), verbose=False,
)
try:
    entry = sh.TableEntry("ingress.route")(action="ingress.forward")
    entry.match["destination"] = "192.0.2.0/24"
    entry.action["port"] = "1"
    entry.action["source_mac"] = "02:ff:00:00:00:01"
    entry.action["destination_mac"] = "02:00:00:00:00:05"
    entry.insert()
    try:
        entry.insert()
    except P4RuntimeWriteException as error:
        tell("refused", [e.canonical_code for _, e in error.errors])
    tell("entries", entries())
    tell("cells", len(list(sh.CounterEntry("ingress.dropped").read())))
    entry.delete()
    tell("entries", entries())
finally:
    sh.teardown()
"""


@pytest.fixture(scope="module")
def shell() -> Path:
    """The Python of an environment with p4runtime-shell, made once and kept in the cache."""
    python = SHELL / "bin/python"
    ready = SHELL / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(SHELL)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *SHELL_PACKAGES], check=True, timeout=600)
        ready.touch()
    return python


def test_p4runtime_shell(made: Bench, shell: Path) -> None:
    done = subprocess.run(
        [str(shell), "-c", SHELL_SCRIPT, made.switch.address, str(P4INFO), str(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=5 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("told: ")]
    assert told == ["told: refused [6]", "told: entries 1", "told: cells 16", "told: entries 0"]


# --- TLS ------------------------------------------------------------------------------------------
def authority(directory: Path, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = _certificate(subject, subject, key, key, ca=True)
    (directory / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, made


def issue(
    directory: Path, name: str, by: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
) -> None:
    """A key and a certificate for localhost, as NAME.key and NAME.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = _certificate(subject, by[1].subject, key, by[0], ca=False)
    (directory / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def secured(address: str, directory: Path, roots: str, client: str | None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        (directory / f"{roots}.pem").read_bytes(),
        (directory / f"{client}.key").read_bytes() if client else None,
        (directory / f"{client}.pem").read_bytes() if client else None,
    )
    options = (("grpc.default_authority", "localhost"),)
    return grpc.secure_channel(address, credentials, options=options)


def answers(channel: grpc.Channel) -> bool:
    """Whether the service talks to this client."""
    with channel:
        try:
            p4r_grpc.P4RuntimeStub(channel).Capabilities(p4r.CapabilitiesRequest(), timeout=5)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return False
        return True


def test_tls_and_client_certificates(tmp_path: Path) -> None:
    ours, others = authority(tmp_path, "ours"), authority(tmp_path, "others")
    for name, by in (("switch", ours), ("client", ours), ("stranger", others)):
        issue(tmp_path, name, by)
    namespace = Namespace("fftls")
    try:
        switch = SwitchProcess(
            namespace, tmp_path / "s", [], "--no-p4", "--grpc-server-ssl",
            "--grpc-server-cert", str(tmp_path / "switch.pem"),
            "--grpc-server-key", str(tmp_path / "switch.key"),
            "--grpc-server-cacert", str(tmp_path / "ours.pem"),
            "--grpc-server-with-client-auth",
        )  # fmt: skip
        switch.wait_ready()
        assert answers(secured(switch.address, tmp_path, "ours", "client"))
        assert not answers(secured(switch.address, tmp_path, "ours", None))
        assert not answers(secured(switch.address, tmp_path, "ours", "stranger"))
        assert not answers(secured(switch.address, tmp_path, "others", "client"))
        assert not answers(grpc.insecure_channel(switch.address))
    finally:
        namespace.remove()


# --- many and slow clients ------------------------------------------------------------------------
def test_many_clients(made: Bench) -> None:
    controllers = [made.controller(None) for _ in range(60)]
    try:
        for controller in controllers:
            controller.answer()
        with made.controller(1) as primary:
            assert primary.answer().status.code == 0
            for controller in controllers:
                assert controller.answer().election_id.low == 1
    finally:
        for controller in controllers:
            controller.close()


def test_errors_of_a_long_batch_for_a_client_that_takes_them(made: Bench) -> None:
    channel = grpc.insecure_channel(
        made.switch.address,
        options=(("grpc.max_metadata_size", 4 << 20), ("grpc.absolute_max_metadata_size", 4 << 20)),
    )
    with channel, made.controller() as controller:
        controller.answer()
        controller.set_pipeline()
        count = 3000
        entries = [
            controller.names.entry("hold_to", {"address": 0x0A000000 + i}, "buffer")
            for i in range(9)
        ]
        updates = [
            p4r.Update(type="MODIFY", entity=p4r.Entity(table_entry=entries[i % 9]))
            for i in range(count)
        ]
        request = p4r.WriteRequest(
            device_id=1, election_id=controller.election_id(), updates=updates
        )
        with pytest.raises(grpc.RpcError) as caught:
            p4r_grpc.P4RuntimeStub(channel).Write(
                request, metadata=(("flowferry-max-metadata", str(4 << 20)),)
            )
        told = batch_errors(caught.value)
        assert len(told) == count
        assert all(message == "table ingress.hold_to has no such entry" for _, message in told)


def test_an_election_id_of_zero_is_one(made: Bench) -> None:
    with made.controller(0) as controller:
        assert controller.answer().status.code == 0, "zero was given, and nobody has more"
        controller.set_pipeline()
        with made.controller(None) as other:
            told = other.answer()
            assert told.status.code == 6
            assert told.HasField("election_id")


def test_roles_write_beside_each_other(made: Bench) -> None:
    monitor = Controller(made.switch.address, made.names, 1, role="monitor")
    with made.controller(5) as main, monitor:
        main.answer()
        main.set_pipeline()
        assert monitor.answer().role.name == "monitor"
        request = p4r.WriteRequest(device_id=1, role="monitor")
        request.election_id.low = 1
        monitor.stub.Write(request)
        request.role = "nobody"
        with pytest.raises(grpc.RpcError) as caught:
            monitor.stub.Write(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        request.role = ""
        with pytest.raises(grpc.RpcError) as caught:
            monitor.stub.Write(request)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
