# SPDX-License-Identifier: Apache-2.0
"""Sessions against a server: arbitration, pipelines, entries, packets, and broken connections."""

from __future__ import annotations

import datetime
import ipaddress
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_server import FakeSwitch
from flowferry_p4.client import (
    BadValue,
    Counter,
    Entry,
    NoPipeline,
    NotPrimary,
    OtherPipeline,
    P4Error,
    Session,
    SwitchUnreachable,
    Tls,
    UnknownName,
    Update,
    WriteError,
)

PATIENCE = 10.0


def backend(number: int, address: str = "198.19.0.11") -> Entry:
    return Entry("backend", {"backend_id": number}, "translate", {"address": address, "port": 80})


def route(prefix: str) -> Entry:
    params = {"port": 3, "source_mac": "02:ff:00:00:00:01", "destination_mac": "02:ff:00:00:00:0c"}
    return Entry("route", {"destination": prefix}, "forward", params)


# -- arbitration


def test_a_free_role_is_taken_and_given_back(switch: FakeSwitch) -> None:
    with Session.open(switch.address) as first:
        assert (first.is_primary, first.election_id) == (True, 1)
    assert not first.is_primary
    assert first.error is None
    with Session.open(switch.address) as second:
        assert (second.is_primary, second.election_id) == (True, 2)


def test_nobody_is_displaced_unless_told_to(switch: FakeSwitch) -> None:
    with Session.open(switch.address, election_id=7) as owner:
        with pytest.raises(
            NotPrimary, match=r"another controller is primary \(election id 7\)"
        ) as e:
            Session.open(switch.address)
        assert e.value.primary_election_id == 7
        with pytest.raises(NotPrimary, match=r"\(election id 7\)"):
            Session.open(switch.address, election_id=6)
        owner.write([Update("INSERT", backend(1))])


def test_a_used_election_id_is_refused(switch: FakeSwitch) -> None:
    with Session.open(switch.address, election_id=7):
        with pytest.raises(
            NotPrimary, match=r"election id 7 was refused .* another controller"
        ) as e:
            Session.open(switch.address, election_id=7)
        assert e.value.primary_election_id == 7


def test_an_id_below_the_highest_ever_seen_does_not_win(switch: FakeSwitch) -> None:
    Session.open(switch.address, election_id=7).close()
    with pytest.raises(NotPrimary, match="election id 3 is too low, the switch has seen 7"):
        Session.open(switch.address, election_id=3)
    with Session.open(switch.address) as session:
        assert session.election_id == 8


def test_the_displaced_controller_notices(switch: FakeSwitch) -> None:
    with Session.open(switch.address) as old, Session.open(switch.address, election_id=9) as new:
        # Whether the notice or the refusal comes first makes no difference.
        with pytest.raises(NotPrimary, match=r"another controller is primary \(election id 9\)"):
            old.write([Update("INSERT", backend(1))])
        new.write([Update("INSERT", backend(1))])
        assert not old.is_primary


def test_roles_are_apart(switch: FakeSwitch) -> None:
    with Session.open(switch.address), Session.open(switch.address, role="tables") as other:
        assert other.is_primary
        other.write([Update("INSERT", backend(1))])
        assert switch.requests[0].role == "tables"


def test_a_reader_takes_part_in_no_election(switch: FakeSwitch) -> None:
    with Session.open(switch.address) as owner:
        owner.write([Update("INSERT", backend(1))])
        with Session.open(switch.address, primary=False) as reader:
            assert reader.read("backend") == [backend(1)]
            assert (reader.is_primary, reader.election_id) == (False, 0)
            for act in (
                lambda: reader.write([]),
                lambda: reader.send_packet(b"", {}),
                lambda: reader.on_packet(None),
                reader.flush,
            ):
                with pytest.raises(NotPrimary, match="the session was opened for reading only"):
                    act()
        assert owner.is_primary


# -- reaching the switch


@pytest.mark.parametrize("primary", [True, False])
def test_nobody_there(primary: bool) -> None:
    with FakeSwitch() as gone:
        address = gone.address
    with pytest.raises(SwitchUnreachable, match=f"switch {address}, device 1: no P4Runtime server"):
        Session.open(address, primary=primary)


@pytest.mark.parametrize("primary", [True, False])
def test_the_wrong_device(switch: FakeSwitch, primary: bool) -> None:
    with pytest.raises(P4Error, match="no device 4"):
        Session.open(switch.address, device_id=4, primary=primary)


def test_an_address_without_port() -> None:
    with pytest.raises(BadValue, match=r"'198.18.0.2' has no port; write it as 198"):
        Session.open("198.18.0.2")


def test_a_silent_switch(switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_hear", lambda controller, request: None)
    with pytest.raises(SwitchUnreachable, match="no answer on the stream in time"):
        Session.open(switch.address, timeout=0.2)


def test_the_end_of_the_switch_is_noticed(switch: FakeSwitch) -> None:
    with Session.open(switch.address) as session:
        switch.stop()
        assert session.closed.wait(PATIENCE), "the session did not notice the end of the switch"
        assert isinstance(session.error, SwitchUnreachable)
        assert not session.is_primary
        with pytest.raises(SwitchUnreachable):
            session.write([Update("INSERT", backend(1))])


def test_a_closed_session_says_so(switch: FakeSwitch) -> None:
    session = Session.open(switch.address)
    session.close()
    for act in (session.read, session.flush, session.pipeline):
        with pytest.raises(P4Error, match="the session is closed"):
            act()


# -- pipeline


def test_a_switch_without_pipeline(sample: str) -> None:
    with FakeSwitch() as empty, Session.open(empty.address) as session:
        assert session.pipeline() is None
        for act in (session.read, lambda: session.require_pipeline(sample)):
            with pytest.raises(NoPipeline, match="it has no pipeline yet; load one first"):
                act()
        cookie = session.set_pipeline(sample, b"{}")
        session.require_pipeline(sample)
        found = session.pipeline(device_config=True)
        assert found is not None
        assert (found.cookie, found.device_config) == (cookie, b"{}")
        session.write([Update("INSERT", backend(1))])


def test_another_pipeline(session: Session, sample: str) -> None:
    with pytest.raises(OtherPipeline, match=r"missing tables: none; tables of its own: filter\)"):
        head, _, rest = sample.partition("tables {\n  preamble { id: 33554436")
        session.require_pipeline(head + rest[rest.index("\nactions {") :])
    with pytest.raises(OtherPipeline, match="missing tables: wall; tables of its own: filter"):
        session.require_pipeline(sample.replace('alias: "filter"', 'alias: "wall"'))
    with pytest.raises(OtherPipeline, match="same tables, other content"):
        session.require_pipeline(sample.replace("size: 1024", "size: 2048"))


def test_a_refused_pipeline(switch: FakeSwitch, session: Session, sample: str) -> None:
    switch.refuse_pipeline = "line 12: registers are not supported"
    with pytest.raises(
        P4Error, match="loading the pipeline failed: INVALID_ARGUMENT: line 12: reg"
    ):
        session.set_pipeline(sample, b"{}")


# -- entries


def test_entries_come_back_as_they_were_written(session: Session) -> None:
    session.write(
        [
            Update("INSERT", route("198.19.0.0/24")),
            Update("INSERT", route("198.19.0.11/32")),
            Update("INSERT", Entry("filter", {"port": "80..90"}, "mark", {"weight": 7}, 3)),
        ]
    )
    session.write([Update("INSERT", backend(1)), Update("INSERT", backend(2))])
    session.write([Update("MODIFY", backend(1, "198.19.0.12")), Update("DELETE", backend(2))])
    assert session.read() == [
        route("198.19.0.0/24"),
        route("198.19.0.11/32"),
        backend(1, "198.19.0.12"),
        Entry("filter", {"port": "80..90"}, "mark", {"weight": 7}, 3),
    ]


@pytest.mark.parametrize(
    ("table", "match", "found"),
    [
        ("route", {"destination": "198.19.0.11"}, ["198.19.0.11/32"]),
        ("route", {"destination": "198.19.0.99"}, []),
        ("route", None, ["198.19.0.0/24", "198.19.0.11/32"]),
        ("route", {"destination": "0.0.0.0/0"}, []),
    ],
)
def test_reading_by_match(
    session: Session, table: str, match: dict[str, Any] | None, found: list[str]
) -> None:
    session.write([Update("INSERT", route(p)) for p in ("198.19.0.0/24", "198.19.0.11/32")])
    assert [entry.match["destination"] for entry in session.read(table, match)] == found


def test_reading_by_a_part_of_the_match(session: Session) -> None:
    entries = [
        Entry("service", {"address": "198.19.0.200", "protocol": 6, "port": port}, "translate",
              {"address": "198.19.0.11", "port": 1})
        for port in (80, 443)
    ]  # fmt: skip
    session.write([Update("INSERT", entry) for entry in entries])
    assert session.read("service", {"port": 443}) == entries[1:]
    assert session.read("service", {"protocol": 6}) == entries
    with pytest.raises(BadValue, match="a match needs the one table it belongs to"):
        session.read(match={"port": 443})
    with pytest.raises(UnknownName, match='no match field "prt"; did you mean "port"'):
        session.read("service", {"prt": 443})


def test_defaults_are_modified_and_reset(session: Session) -> None:
    changed = Entry("route", action="forward", params=route("0.0.0.0/0").params, is_default=True)
    session.write([Update("MODIFY", changed)])
    assert session.read("route", defaults=True) == [changed]
    assert session.read("route") == []
    session.write([Update("MODIFY", Entry("route", is_default=True))])
    assert session.read("route", defaults=True) == [Entry("route", action="drop", is_default=True)]


def test_counters(switch: FakeSwitch, session: Session) -> None:
    session.write([Update("INSERT", route("198.19.0.0/24")), Update("INSERT", backend(1))])
    switch.count(packets=3, size=180)
    assert [entry.counter for entry in session.read(counters=True)] == [Counter(3, 180), None]
    assert [entry.counter for entry in session.read()] == [None, None]
    assert session.read_counter("dropped", 2) == {2: Counter(20, 2000)}
    assert sorted(session.read_counter("dropped")) == [0, 1, 2, 3]
    with pytest.raises(UnknownName, match='no counter "droped"; did you mean "dropped"'):
        session.read_counter("droped")


def test_each_refused_update_is_named_and_the_others_are_done(session: Session) -> None:
    session.write([Update("INSERT", backend(1))])
    with pytest.raises(WriteError) as caught:
        session.write(
            [
                Update("INSERT", backend(1)),
                Update("INSERT", backend(2)),
                Update("DELETE", backend(9)),
                Update("MODIFY", backend(8)),
            ]
        )
    assert caught.value.errors == [
        (0, "ALREADY_EXISTS", "the entry exists"),
        (2, "NOT_FOUND", "no such entry"),
        (3, "NOT_FOUND", "no such entry"),
    ]
    assert str(caught.value).startswith(
        "update 0 (INSERT backend backend_id=1): ALREADY_EXISTS: the entry exists; update 2 (DELETE"
    )
    assert session.read("backend") == [backend(1), backend(2)]


def test_thousands_of_entries_and_of_errors(session: Session) -> None:
    updates = [Update("INSERT", route(f"10.{n >> 8}.{n & 255}.0/24")) for n in range(5000)]
    session.write(updates)
    assert len(session.read("route")) == 5000
    with pytest.raises(WriteError) as caught:
        session.write(updates)
    assert [index for index, _, _ in caught.value.errors] == list(range(5000))


def test_a_batch_refused_as_a_whole(
    session: Session, switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(errors: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")

    monkeypatch.setattr(switch, "_fail", overloaded)
    session.write([Update("INSERT", backend(1))])
    with pytest.raises(WriteError) as alone:
        session.write([Update("INSERT", backend(1))])
    assert alone.value.errors == [(0, "RESOURCE_EXHAUSTED", "too many requests")]
    with pytest.raises(
        WriteError, match="the switch refused the whole batch: RESOURCE_EXH"
    ) as many:
        session.write([Update("INSERT", backend(1)), Update("INSERT", backend(1))])
    assert many.value.errors == [(-1, "RESOURCE_EXHAUSTED", "too many requests")]


def test_bad_entries_are_refused_before_anything_is_sent(
    switch: FakeSwitch, session: Session
) -> None:
    with pytest.raises(UnknownName):
        session.write([Update("INSERT", backend(1)), Update("INSERT", Entry("nowhere"))])
    assert switch.requests == []


# -- packets


def test_packets_in_arrive_in_order_with_their_metadata(
    switch: FakeSwitch, session: Session
) -> None:
    got: list[tuple[bytes, dict[str, int]]] = []
    complete = threading.Event()

    def take(payload: bytes, metadata: dict[str, int]) -> None:
        got.append((payload, metadata))
        if payload == b"":
            raise RuntimeError("a callback that fails must not end the stream")
        if len(got) == 101:
            complete.set()

    session.on_packet(take)
    switch.punt(b"", {1: 0, 2: 0})
    for number in range(100):
        switch.punt(b"frame %d" % number, {1: 3, 2: 2})
    assert complete.wait(PATIENCE), f"only {len(got)} of 101 packets arrived"
    assert got[1:] == [
        (b"frame %d" % number, {"ingress_port": 3, "reason": 2}) for number in range(100)
    ]
    assert session.is_primary


def test_a_flush_waits_for_all_packets_out(switch: FakeSwitch, session: Session) -> None:
    session.send_packets((b"%d" % number, {"past_hold": 1}) for number in range(2000))
    session.flush()
    assert [packet.payload for packet in switch.packets_out] == [b"%d" % n for n in range(2000)]


def test_a_switch_that_takes_packets_one_by_one_gets_them_so(
    switch: FakeSwitch, session: Session
) -> None:
    """P4Runtime's own way, where flowferry.Packets is not served."""
    for first in (0, 100):
        session.deliver([b"%d" % (first + number) for number in range(100)], {"past_hold": 1})
        assert len(switch.packets_out) == first + 100, "all are handled when it returns"
    assert [packet.payload for packet in switch.packets_out] == [b"%d" % n for n in range(200)]


def test_complaints_on_the_stream_are_kept(
    switch: FakeSwitch, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_primary", lambda role: None)
    session.send_packet(b"frame", {})
    with pytest.raises(NotPrimary):
        session.flush()
        session.flush()
    assert list(session.stream_errors) == ["packet-out from a controller that is not primary"]


# -- TLS


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, good as its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


def test_tls_with_client_certificate_and_token(tmp_path: Path, sample: str) -> None:
    cert, key = certificate(tmp_path, "switch")
    own_cert, own_key = certificate(tmp_path, "controller")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())],
        root_certificates=own_cert.read_bytes(),
        require_client_auth=True,
    )
    with FakeSwitch(p4info=sample, credentials=credentials, token="open sesame") as switch:
        own = {"cert": str(own_cert), "key": str(own_key), "ca": str(cert)}
        with Session.open(switch.address, tls=Tls(**own, token="open sesame")) as session:
            session.write([Update("INSERT", backend(1))])
            assert session.read("backend") == [backend(1)]
        with pytest.raises(P4Error, match="does not accept the credentials: the token is wrong or"):
            Session.open(switch.address, tls=Tls(**own, token="guess"), primary=False)
        own["ca"] = str(own_cert)
        with pytest.raises(SwitchUnreachable):
            Session.open(switch.address, tls=Tls(**own, token="open sesame"), timeout=2.0)


def test_tls_files_are_checked(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pem")
    with pytest.raises(BadValue, match=r"cannot read the ca file .*no.pem: No such file"):
        Session.open("127.0.0.1:1", tls=Tls(ca=missing))
    with pytest.raises(BadValue, match="a certificate needs its key"):
        Session.open("127.0.0.1:1", tls=Tls(cert=missing))
    assert "sesame" not in repr(Tls(token="sesame"))
