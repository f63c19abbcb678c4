# SPDX-License-Identifier: Apache-2.0
"""One-time certificates: an authority that lives as long as one migration."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = IPv4Address("127.0.0.1")
_LIFETIME = timedelta(hours=1)
# Clocks of nodes differ.
_SKEW = timedelta(minutes=10)


def one_time_certificates() -> dict[str, str]:
    """PEM texts ``ca``, ``certificate`` and ``key`` for the parties of one migration.

    The three share the pair: whoever has it takes part in this migration, and nothing else can be
    done with it. The authority's key is forgotten at once.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _name("flowferry one-time authority")
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = (
        _builder(authority, authority, authority_key)
        .add_extension(constraints, critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(_key_identifier(authority_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(_name("flowferry migration"), authority, key)
        .add_extension(issuer, critical=False)
        # A container runtime that pulls from a helper on its node looks at the address.
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    encoding = serialization.Encoding.PEM
    return {
        "ca": ca.public_bytes(encoding).decode(),
        "certificate": certificate.public_bytes(encoding).decode(),
        "key": private.decode(),
    }


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Of an authority, or of one of the parties (RFC 5280 section 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
    )
