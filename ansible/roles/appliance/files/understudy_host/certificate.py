"""Installs the certificate of HTTPS and DICOM TLS. If the clinics' authority signs it, the key stays here."""

import ipaddress
import tempfile
from collections.abc import Sequence
from pathlib import Path

from understudy_host.compose import run
from understudy_host.places import HostError, Places, RefusedError, remove_durably, replace_durably
from understudy_host.volumes import read_file, write_file

CERTIFICATE = "tls/https.pem"
"""Certificate, chain and key, in the volume `keys`."""


def holds(places: Places, authority: str, *, days: int, names: Sequence[str]) -> str:
    """Return that the certificate is valid, or raise RefusedError with the reason to make a new one.

    It has to be signed by the authority, valid for `days` more days, and contain all names.
    """
    with tempfile.TemporaryDirectory() as name:
        anchor, present = Path(name, "authority.pem"), Path(name, "https.pem")
        anchor.write_text(authority, encoding="ascii")
        try:
            present.write_bytes(read_file(places.volume("keys"), CERTIFICATE))
            # The clinics' authority may be an intermediate one, whose own issuer is not known here.
            run(["openssl", "verify", "-partial_chain", "-CAfile", str(anchor), str(present)])
            run(["openssl", "x509", "-noout", "-checkend", str(days * 86_400), "-in", str(present)])
            told = run(["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(present)]).decode()
        except (HostError, FileNotFoundError) as error:
            raise RefusedError(f"the certificate is not the authority's, or ends soon: {error}") from error
    # Both in this module's form, because openssl prints an IPv6 address in full and in capitals.
    named = {_general_name(part.strip().partition(":")[2]) for part in told.splitlines()[-1].split(",")}
    missing = sorted(name for name in names if _general_name(name) not in named)
    if missing:
        raise RefusedError(f"the certificate does not name {', '.join(missing)}")
    return f"{CERTIFICATE} holds"


def request(places: Places, names: Sequence[str]) -> str:
    """Make a key, and return a request (PKCS #10, PEM) for these names and addresses."""
    alternatives = "subjectAltName=" + ",".join(map(_general_name, names))
    with tempfile.TemporaryDirectory() as name:
        key = Path(name, "key")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
        made = run(["openssl", "req", "-new", *curve, "-subj", "/CN=Understudy", "-addext", alternatives])
        replace_durably(places.new_key, key.read_text(encoding="ascii"), mode=0o600)
    return made.decode("ascii").strip()


def install(places: Places, chain: str) -> str:
    """Install the chain with the key of the request; raise HostError if they do not belong together."""
    if not places.new_key.exists():
        raise HostError("no certificate was asked for: nothing was changed, run the play again")
    of_key = run(["openssl", "pkey", "-in", str(places.new_key), "-pubout"])
    of_certificate = run(["openssl", "x509", "-noout", "-pubkey"], stdin=chain.encode("ascii"))
    if of_key != of_certificate:
        raise HostError(
            f"the certificate does not belong to {places.new_key}: nothing was changed, run the play again"
        )
    _put(places, chain.strip() + "\n" + places.new_key.read_text(encoding="ascii"))
    remove_durably(places.new_key)
    return f"{CERTIFICATE} is new"


def place(places: Places, given: str, *, only_look: bool = False) -> str:
    """Install a certificate with its key unless they are there already; `only_look` changes nothing."""
    try:
        if read_file(places.volume("keys"), CERTIFICATE).decode("ascii", "replace") == given:
            return f"{CERTIFICATE} is the given one"
    except FileNotFoundError:
        pass
    if not only_look:
        _put(places, given)
    return f"{CERTIFICATE} is new"


def _put(places: Places, content: str) -> None:
    write_file(places.volume("keys"), CERTIFICATE, content.encode("ascii"), mode=0o640)


def _general_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
