# SPDX-License-Identifier: Apache-2.0
"""An authority makes what is missing, and only that."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.flowferry.core.plugins.module_utils.pki import Authority, Wanted
from cryptography import x509

SERVER = Wanted("server", "server", hosts=["server.example", "192.0.2.1"])
CLIENT = Wanted("client", "flowferry", organizations=["movers"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", timedelta(days=10))


def test_everything_is_made_once(authority: Authority) -> None:
    wanted = [SERVER, CLIENT]
    assert authority.missing(wanted) == ["ca", "server", "client"]
    authority.make(wanted)
    assert authority.missing(wanted) == []
    before = authority.file("server").read_bytes()
    authority.make(wanted)
    assert authority.file("server").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        replace(SERVER, hosts=["server.example"]),
        replace(SERVER, common_name="another"),
        replace(SERVER, organizations=["group"]),
    ],
)
def test_a_certificate_with_other_names_is_made_again(authority: Authority, other: Wanted) -> None:
    authority.make([SERVER, CLIENT])
    assert authority.missing([other, CLIENT]) == ["server"]


def test_a_certificate_of_another_authority_is_made_again(authority: Authority) -> None:
    authority.make([SERVER])
    (authority.directory / "ca.key").unlink()
    assert authority.missing([SERVER]) == ["ca", "server"]
    authority.make([SERVER])
    assert authority.missing([SERVER]) == []


def test_what_is_about_to_end_is_made_again(authority: Authority) -> None:
    Authority(authority.directory, timedelta(days=3)).make([SERVER])
    assert authority.missing([SERVER]) == ["ca", "server"]


def test_the_files_are_what_tls_takes(authority: Authority) -> None:
    authority.make([SERVER, CLIENT])
    context = ssl.create_default_context(cafile=str(authority.certificate_file))
    context.load_cert_chain(authority.file("client"))
    assert authority.file("client").stat().st_mode & 0o077 == 0
    found = x509.load_pem_x509_certificate(authority.file("client").read_bytes())
    assert found.subject.rfc4514_string() == "CN=flowferry,O=movers"
