"""The certificate's life by the calendar alone, and the file that it is served from."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import ConfigurationError
from nodeobs.kube.authority import (
    KEPT_FOR,
    LIFETIME,
    PUBLISHED_FOR,
    RENEW_BEFORE,
    Material,
    Pair,
    material_from,
    mend,
    names_of,
    rotate,
)
from nodeobs.kube.certificates import ensure_pair, write_pair
from nodeobs.web.certificate import ServedCertificate

START = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
NAMES = names_of("nodeobs", "observability")
SERVER = NAMES[0]
HOUR = timedelta(hours=1)


def made(now: datetime = START) -> Material:
    return mend(None, names=NAMES, now=now)


def is_trusted(pair: Pair, bundle: bytes, now: datetime, name: str = SERVER) -> bool:
    """Whether a client that trusts ``bundle`` takes that certificate for the server ``name``."""
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(name))
    try:
        verifier.verify(x509.load_pem_x509_certificate(pair.certificate), [])
    except VerificationError:
        return False
    return True


def stored(material: Material) -> Material:
    """As another replica reads it."""
    read = material_from({key: value for key, value in material.to_data().items() if value is not None})
    assert read is not None
    return read


def test_a_new_certificate_is_trusted_by_every_name_of_the_service() -> None:
    material = made()
    assert is_trusted(material.served, material.bundle, START)
    for name in ("nodeobs.observability.svc.cluster.local", "nodeobs.observability", "localhost"):
        assert is_trusted(material.served, material.bundle, START, name)
    assert not is_trusted(material.served, material.bundle, START, "kubernetes.default.svc")
    assert not is_trusted(material.served, made().bundle, START)
    assert is_trusted(material.served, material.bundle, START - timedelta(minutes=30)), "clocks differ"


def test_nothing_is_done_that_is_not_needed() -> None:
    material = made()
    for later in (timedelta(), HOUR, LIFETIME - RENEW_BEFORE - HOUR):
        assert mend(material, names=NAMES, now=START + later) is material
        assert rotate(material, names=NAMES, now=START + later) is material


def test_a_successor_is_published_then_served_then_the_first_is_forgotten() -> None:
    first = made()
    time = START + LIFETIME - RENEW_BEFORE + HOUR
    staged = stored(rotate(first, names=NAMES, now=time))
    assert staged.served == first.served
    assert staged.following is not None
    assert is_trusted(staged.served, staged.bundle, time)
    assert is_trusted(staged.following, staged.bundle, time)
    assert rotate(staged, names=NAMES, now=time + PUBLISHED_FOR - timedelta(seconds=1)) is staged

    time += PUBLISHED_FOR
    turned = stored(rotate(staged, names=NAMES, now=time))
    assert turned.served == staged.following
    assert turned.following is None
    assert is_trusted(first.served, turned.bundle, time), "a replica may serve it for another half minute"
    assert rotate(turned, names=NAMES, now=time + KEPT_FOR - timedelta(seconds=1)) is turned

    time += KEPT_FOR
    alone = stored(rotate(turned, names=NAMES, now=time))
    assert alone.served == turned.served
    assert len(alone.authorities) == 1
    assert is_trusted(alone.served, alone.bundle, time)
    assert not is_trusted(first.served, alone.bundle, time)


@pytest.mark.parametrize("step", [timedelta(minutes=45), timedelta(hours=7), timedelta(days=3)])
def test_over_months_every_replica_is_trusted_by_what_was_published_before_and_after(step: timedelta) -> None:
    time, material = START, made()
    certificates = {material.served.certificate}
    while time < START + timedelta(days=200):
        time += step
        before = material
        assert mend(material, names=NAMES, now=time) is material
        material = rotate(material, names=NAMES, now=time)
        if material is not before:
            certificates.add(material.served.certificate)
            for served in (before.served, material.served):
                for bundle in (before.bundle, material.bundle):
                    assert is_trusted(served, bundle, time)
            assert len(material.authorities) <= 2
    assert len(certificates) == 4


@pytest.mark.parametrize(
    "broken",
    [
        {"tls.crt": b"", "tls.key": b""},
        {"tls.key": b"nonsense"},
        {"tls.crt": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"tls.key": made().served.key},
        {"ca.crt": made().bundle},
        {"ca.crt": b""},
        {"since": b"yesterday"},
        {"since": b"0001-01-01T00:00:00+01:00"},
    ],
)
def test_what_somebody_broke_is_made_anew(broken: dict[str, bytes]) -> None:
    data = {key: value for key, value in made().to_data().items() if value is not None}
    material = mend(material_from(data | broken), names=NAMES, now=START)
    assert is_trusted(material.served, material.bundle, START)
    assert load_pem_private_key(material.served.key, None)


def test_a_certificate_for_another_service_or_of_another_time_is_made_anew() -> None:
    material = made()
    for names, time in (
        (names_of("other", "observability"), START),
        (NAMES, START + LIFETIME),
        (NAMES, START - LIFETIME),
    ):
        other = mend(material, names=names, now=time)
        assert is_trusted(other.served, other.bundle, time, names[0])
        assert other.served != material.served


def test_the_successor_is_there_when_the_first_has_ended_meanwhile() -> None:
    staged = rotate(made(), names=NAMES, now=START + LIFETIME - HOUR)
    turned = mend(staged, names=NAMES, now=START + LIFETIME)
    assert turned.served == staged.following
    assert turned.following is None


@given(st.dictionaries(st.sampled_from(["tls.crt", "tls.key", "ca.crt", "next.crt", "next.key", "since"]), st.binary()))
def test_whatever_a_secret_holds_there_is_a_certificate(data: dict[str, bytes]) -> None:
    material = mend(material_from(data), names=NAMES, now=START)
    assert is_trusted(material.served, material.bundle, START)


@pytest.mark.parametrize("key", ["tls.crt", "ca.crt"])
def test_a_certificate_whose_public_key_or_version_is_damaged_is_made_anew(key: str) -> None:
    """It can be loaded as a whole; what is wrong shows when the part is used."""
    data = {name: value for name, value in made().to_data().items() if value is not None}
    certificate = x509.load_pem_x509_certificate(data[key])
    der = certificate.public_bytes(Encoding.DER)
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at = der.index(public)
    for place in (der.index(b"\xa0\x03\x02\x01\x02") + 4, *range(at, at + len(public))):
        damaged = bytearray(der)
        damaged[place] ^= 0x10
        pem = ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode()
        material = mend(material_from(data | {key: pem}), names=NAMES, now=START)
        assert is_trusted(material.served, material.bundle, START)
        for authority in x509.load_pem_x509_certificates(material.bundle):
            authority.verify_directly_issued_by(authority)


def test_a_damaged_authority_is_not_published_beside_the_one_in_use() -> None:
    data = {name: value for name, value in made().to_data().items() if value is not None}
    der = bytearray(x509.load_pem_x509_certificate(made().bundle).public_bytes(Encoding.DER))
    der[-1] ^= 1
    beside = data["ca.crt"] + ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    material = mend(material_from(data | {"ca.crt": beside}), names=NAMES, now=START)
    assert material.served.certificate == data["tls.crt"]
    assert material.bundle == data["ca.crt"]


def test_no_key_is_shown() -> None:
    staged = rotate(made(), names=NAMES, now=START + LIFETIME - HOUR)
    assert "PRIVATE" not in repr(staged)


def test_the_file_is_its_owners_and_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "tls" / "tls.pem"
    ensure_pair(file, service_name="nodeobs", namespace="observability", now=START)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    first = file.read_bytes()
    ensure_pair(file, service_name="nodeobs", namespace="observability", now=START)
    assert file.read_bytes() == first
    (tmp_path / "tls" / "tls.pem.new").write_text("a leftover")
    served = ServedCertificate(file, file)
    context = served.context()
    material = made()
    write_pair(file, material.served)
    assert file.read_bytes() == material.served.pem
    assert served.context() is not context
    unchanged = file.stat().st_ino
    write_pair(file, material.served)
    assert file.stat().st_ino == unchanged
    assert [path.name for path in file.parent.iterdir()] == ["tls.pem"]


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "tls.pem"
    file.write_text("half a")
    ensure_pair(file, service_name="nodeobs", namespace="observability", now=START)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be written to .*blocked/tls\.pem"):
        ensure_pair(tmp_path / "blocked" / "tls.pem", service_name="n", namespace="o", now=START)


def test_a_successor_that_somebody_else_keeps_in_the_secret_is_none() -> None:
    """As a backup tool does, once it has restored the Secret: what it wrote stays though we want it no more."""
    staged = rotate(made(), names=NAMES, now=START + LIFETIME - RENEW_BEFORE + HOUR)
    time = START + LIFETIME - RENEW_BEFORE + HOUR + PUBLISHED_FOR
    turned = rotate(staged, names=NAMES, now=time)
    assert staged.following == turned.served
    left = stored(turned).to_data() | {key: staged.to_data()[key] for key in ("next.crt", "next.key")}
    read = material_from({key: value for key, value in left.items() if value is not None})
    assert read is not None
    assert rotate(read, names=NAMES, now=time + 2 * PUBLISHED_FOR) == turned
