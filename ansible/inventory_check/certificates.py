"""Checks given certificates and signs new ones, on the control machine."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization


def certificates(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of given certificates. With the wrong key, for example, the edge would not start."""
    for name in ("appliance_tls", "appliance_tls_ca"):
        certificate, key = (str(values.get(f"{name}_{part}") or "") for part in ("certificate", "key"))
        if not (certificate and key):
            # Not given, or reported already.
            continue
        try:
            first = x509.load_pem_x509_certificate(certificate.encode())
        except ValueError:
            yield f"{name}_certificate: it is no certificate in PEM"
            continue
        try:
            private = serialization.load_pem_private_key(key.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            yield f"{name}_key: it is no private key in PEM without a passphrase"
            continue
        # In Debian 12 the library returns the time only without its zone.
        ends = getattr(first, "not_valid_after_utc", None) or first.not_valid_after.replace(tzinfo=UTC)
        if ends < datetime.now(UTC):
            yield f"{name}_certificate: it ended on {ends:%Y-%m-%d}"
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if private.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
            yield f"{name}_key: it does not belong to the first certificate of {name}_certificate"


def sign(request: str, certificate: str, key: str, days: int) -> str:
    """Sign a request (PKCS #10) with an authority's key and return the server's certificate (PEM)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extensions = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
        for file, content in (
            ("ca.pem", certificate),
            ("ca.key", key),
            ("request", request),
            ("ext", extensions),
        ):
            (folder / file).touch(mode=0o600)
            (folder / file).write_text(content.strip() + "\n", encoding="ascii")
        done = subprocess.run(
            [
                "openssl",
                "x509",
                "-req",
                "-in",
                "request",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-days",
                str(days),
                "-copy_extensions",
                "copyall",
                "-extfile",
                "ext",
            ],
            cwd=folder,
            capture_output=True,
            check=False,
            text=True,
        )
    if done.returncode:
        raise AnsibleFilterError(f"openssl could not sign the certificate: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
