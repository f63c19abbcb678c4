# SPDX-License-Identifier: Apache-2.0
"""An authority in a directory, and the certificates that it signs.

Runs on the controller only: it needs the Python package cryptography.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .certificates import key_usage

# Clocks of nodes differ.
_SKEW = timedelta(minutes=10)


@dataclass(frozen=True)
class Wanted:
    """One certificate: whose it is, and under which names and addresses it is believed."""

    name: str
    common_name: str
    organizations: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    def subject(self) -> x509.Name:
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in self.organizations]
        return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    def alternatives(self) -> list[x509.GeneralName]:
        return [_general_name(host) for host in self.hosts]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Authority:
    """``ca.crt`` and ``ca.key`` in a directory; beside them a NAME.pem (key, certificate) each."""

    def __init__(self, directory: Path, lifetime: timedelta) -> None:
        self.directory = directory
        self.lifetime = lifetime

    @property
    def certificate_file(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def _key_file(self) -> Path:
        return self.directory / "ca.key"

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def missing(self, wanted: list[Wanted]) -> list[str]:
        """What would have to be made: "ca", and names of certificates."""
        if not (self.certificate_file.exists() and self._key_file.exists()):
            return ["ca", *(one.name for one in wanted)]
        ca = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        if not _lasts(ca, self.lifetime):
            return ["ca", *(one.name for one in wanted)]
        return [one.name for one in wanted if not self._is_good(one, ca)]

    def make(self, wanted: list[Wanted]) -> None:
        """Whatever is missing."""
        missing = self.missing(wanted)
        if not missing:
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "ca" in missing:
            self._make_ca()
        ca = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        for one in wanted:
            if one.name in missing:
                _write(self.file(one.name), self._issue(one, ca, key))

    def _is_good(self, one: Wanted, ca: x509.Certificate) -> bool:
        if not self.file(one.name).exists():
            return False
        found = x509.load_pem_x509_certificate(self.file(one.name).read_bytes())
        try:
            found.verify_directly_issued_by(ca)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            alternatives = list(names)
        except x509.ExtensionNotFound:
            alternatives = []
        except Exception:  # signed by an authority that is not there any more
            return False
        return (
            found.subject == one.subject()
            and alternatives == one.alternatives()
            and _lasts(found, self.lifetime)
        )

    def _make_ca(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flowferry cluster authority")])
        certificate = (
            self._builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        _write(self._key_file, _pem(key))
        _write(
            self.certificate_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
        )

    def _issue(
        self, one: Wanted, ca: x509.Certificate, authority: ec.EllipticCurvePrivateKey
    ) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
        builder = (
            self._builder(one.subject(), ca.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(issuer, critical=False)
        )
        if one.hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(one.alternatives()), critical=False
            )
        certificate = builder.sign(authority, hashes.SHA256())
        return _pem(key) + certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + self.lifetime)
        )


def _lasts(certificate: x509.Certificate, lifetime: timedelta) -> bool:
    """Whether more than a third of its life is left."""
    return certificate.not_valid_after_utc - datetime.now(timezone.utc) > lifetime / 3


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
