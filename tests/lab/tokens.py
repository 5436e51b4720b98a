"""Tokens that no API server would give."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def expired(token: str, key_file: Path, *, now: datetime) -> str:
    """The same token (a JWT, ES256), but that it expired ``now``, an hour after it was issued."""
    header, payload, _ = token.split(".")
    end = int(now.timestamp())
    claims = json.loads(_decode(payload)) | {"exp": end, "iat": end - 3600, "nbf": end - 3600}
    signed = f"{header}.{_encode(json.dumps(claims).encode())}"
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
