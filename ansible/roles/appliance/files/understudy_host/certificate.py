"""The certificate of HTTPS and DICOM TLS where the clinics' authority signs it; its key never leaves here."""

import ipaddress
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from understudy_host.compose import run
from understudy_host.places import HostError, Places, RefusedError, replace_durably

_KEY = "https.key.new"


def holds(places: Places, authority: str, *, days: int, names: Sequence[str]) -> str:
    """Say that the present certificate does, or raise RefusedError with the reason to make a new one."""
    present = _folder(places) / "https.pem"
    with tempfile.TemporaryDirectory() as name:
        anchor = Path(name, "authority.pem")
        anchor.write_text(authority, encoding="ascii")
        try:
            # The clinics' authority may itself be signed by another, which is not told here.
            run(["openssl", "verify", "-partial_chain", "-CAfile", str(anchor), str(present)])
            run(["openssl", "x509", "-noout", "-checkend", str(days * 86_400), "-in", str(present)])
            told = run(["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(present)]).decode()
        except HostError as error:
            raise RefusedError(f"the certificate is not the authority's, or ends soon: {error}") from error
    # Both as this module writes them: openssl prints an IPv6 address in full, and in capitals.
    named = {_general_name(part.strip().partition(":")[2]) for part in told.splitlines()[-1].split(",")}
    missing = sorted(name for name in names if _general_name(name) not in named)
    if missing:
        raise RefusedError(f"the certificate does not name {', '.join(missing)}")
    return f"{present} holds"


def request(places: Places, names: Sequence[str]) -> str:
    """Make a key, and return a request (PKCS #10, PEM) for these names and addresses."""
    key = _folder(places) / _KEY
    alternatives = "subjectAltName=" + ",".join(map(_general_name, names))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
    made = run(["openssl", "req", "-new", *curve, "-subj", "/CN=Understudy", "-addext", alternatives])
    key.chmod(0o600)
    return made.decode("ascii").strip()


def install(places: Places, chain: str) -> str:
    """Put chain and key in their place; raise HostError where they do not belong together."""
    folder = _folder(places)
    key = folder / _KEY
    of_key = run(["openssl", "pkey", "-in", str(key), "-pubout"])
    of_certificate = run(["openssl", "x509", "-noout", "-pubkey"], stdin=chain.encode("ascii"))
    if of_key != of_certificate:
        raise HostError(f"the certificate does not belong to {key}: nothing was changed, run the play again")
    present = folder / "https.pem"
    replace_durably(present, chain.strip() + "\n" + key.read_text(encoding="ascii"), mode=0o640)
    owner = folder.stat()
    os.chown(present, owner.st_uid, owner.st_gid)
    key.unlink()
    return f"{present} is new"


def _folder(places: Places) -> Path:
    return places.volume("keys") / "tls"


def _general_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
