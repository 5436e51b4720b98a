"""The certificate that the service serves to the API server, and the authorities that vouch for it. No I/O.

Each certificate has an authority of its own, whose key is forgotten once it has signed: nothing that is stored can make
another certificate. A certificate is replaced in three steps, so that whoever trusts the published authorities trusts
every replica at any time: the new one's authority is published beside the old one, then the certificate is served, then
the old authority is dropped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = timedelta(days=90)
RENEW_BEFORE: Final = timedelta(days=30)
"""Before its end, a certificate's successor is made."""
PUBLISHED_FOR: Final = timedelta(hours=1)
"""An authority is published so long before its certificate is served."""
KEPT_FOR: Final = timedelta(days=1)
"""An authority stays published so long after its certificate was replaced."""

_BACKDATED: Final = timedelta(hours=1)
"""Clocks differ."""
_MOST_AUTHORITIES: Final = 4
_UNUSABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate or key that somebody damaged can end with; each part of it is read when it is needed."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Both, as one file holds them."""
        return self.key + self.certificate


@dataclass(frozen=True, kw_only=True)
class Material:
    """What all replicas share."""

    served: Pair
    authorities: tuple[bytes, ...]
    """PEM certificates, newest first."""
    since: datetime
    """Of the last step."""
    following: Pair | None = None
    """What is served next."""

    @property
    def bundle(self) -> bytes:
        """The authorities that are to be trusted, PEM."""
        return b"".join(self.authorities)

    def to_data(self) -> dict[str, bytes | None]:
        """The data of a Secret of type kubernetes.io/tls; None for what it does not hold now."""
        return {
            "tls.crt": self.served.certificate,
            "tls.key": self.served.key,
            "ca.crt": self.bundle,
            "next.crt": self.following.certificate if self.following else None,
            "next.key": self.following.key if self.following else None,
            "since": self.since.isoformat().encode(),
        }


def material_from(data: Mapping[str, bytes]) -> Material | None:
    """What a Secret holds, or None where it is nothing to go on with. Damaged authorities are left out.

    The API server takes no bundle with such in it.
    """
    try:
        certificates = x509.load_pem_x509_certificates(data["ca.crt"])
        since = datetime.fromisoformat(data["since"].decode()).astimezone(UTC)
        served = Pair(data["tls.crt"], data["tls.key"])
    except (KeyError, *_UNUSABLE):
        return None
    following = Pair(data["next.crt"], data["next.key"]) if {"next.crt", "next.key"} <= data.keys() else None
    if following == served:
        following = None  # served already: somebody else keeps it there
    authorities = (certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    whole = tuple(one for one in authorities if _has_signed(one, one))
    return Material(served=served, authorities=whole, since=since, following=following)


def names_of(service: str, namespace: str) -> tuple[str, ...]:
    """What the service is called by: the API server first, then within the cluster, then through a port-forward."""
    inside = f"{service}.{namespace}.svc"
    return (inside, f"{inside}.cluster.local", f"{service}.{namespace}", service, "localhost", "127.0.0.1", "::1")


def mend(material: Material | None, *, names: Sequence[str], now: datetime) -> Material:
    """The same where its certificate can be served; else one that can: nobody trusts what is there now anyway."""
    if material is None:
        authority, served = _issue(names, now)
        return Material(served=served, authorities=(authority,), since=now)
    if _is_usable(material.served, material.authorities, names, now):
        return material
    if material.following is not None and _is_usable(material.following, material.authorities, names, now):
        return replace(material, served=material.following, following=None, since=now)
    authority, served = _issue(names, now)
    return Material(served=served, authorities=_with(authority, material.authorities, now), since=now)


def rotate(material: Material, *, names: Sequence[str], now: datetime) -> Material:
    """The next step where it is time for one, else the same. ``material`` is mended, and its bundle is published."""
    waited = now - material.since
    if material.following is not None:
        if waited < PUBLISHED_FOR:
            return material
        if _is_usable(material.following, material.authorities, names, now):
            return replace(material, served=material.following, following=None, since=now)
    elif waited >= KEPT_FOR:
        needed = tuple(one for one in material.authorities if _has_signed(one, material.served.certificate))
        if needed != material.authorities:
            return replace(material, authorities=needed, since=now)
    if material.following is not None or _end(material.served) - now < RENEW_BEFORE:
        authority, following = _issue(names, now)
        authorities = _with(authority, material.authorities, now)
        return replace(material, authorities=authorities, following=following, since=now)
    return material


def _with(authority: bytes, others: tuple[bytes, ...], now: datetime) -> tuple[bytes, ...]:
    valid = [one for one in others if now < x509.load_pem_x509_certificate(one).not_valid_after_utc]
    return (authority, *valid)[:_MOST_AUTHORITIES]


def _is_usable(pair: Pair, authorities: Sequence[bytes], names: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = load_pem_private_key(pair.key, None)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fits = _public_bytes(key) == _public_bytes(certificate)
    except _UNUSABLE:
        return False
    return (
        fits
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
        and names[0] in alternatives.get_values_for_type(x509.DNSName)
        and any(_has_signed(one, pair.certificate) for one in authorities)
    )


def _has_signed(authority: bytes, certificate: bytes) -> bool:
    try:
        issuer = x509.load_pem_x509_certificate(authority)
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except _UNUSABLE:
        return False
    return True


def _public_bytes(owner: PrivateKeyTypes | x509.Certificate) -> bytes:
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _end(pair: Pair) -> datetime:
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc


def _issue(names: Sequence[str], now: datetime) -> tuple[bytes, Pair]:
    """A new authority, and the only certificate that it ever signs."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    serial = x509.random_serial_number()
    authority_name = _named(f"nodeobs authority {serial:x}"[:64])
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(authority_name, authority_name, authority_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_named(names[0][:64]), authority_name, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return authority.public_bytes(Encoding.PEM), Pair(certificate.public_bytes(Encoding.PEM), pem)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + LIFETIME)
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
