"""Makes HAProxy's configuration and the gate's tables from ours, as the edge loads them at its start."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from understudy.adapters.keys import CERTIFICATE
from understudy.config import ConfigurationError, Understudy
from understudy.core.gate import EVERYWHERE, Allowed, Verdict, network_of

TEMPLATES = Path(__file__).parents[1] / "edge"

LIVE = Path("/tmp/edge")
"""Where the edge keeps what it loads; HAProxy knows its tables by these paths, whoever changes them."""

CONFIGURATION, DEVICES, ADDRESSES = (LIVE / name for name in ("haproxy.cfg", "devices.map", "addresses.acl"))

SHARED = Path("/run/understudy-edge")
"""The volume of edge and agent."""

CONTROL, REPORTS, APPROVED = "control.sock", "reports.sock", "approved.json"
"""In SHARED: HAProxy's control socket, the reports' socket, and what outlives a restart of the edge."""

FULL = Path("/run/understudy/refuse-intake")
"""While this file is there, new associations are refused for now; who watches the volumes puts it there."""

_WORD = re.compile(r"@([A-Z_]+)@")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]+")
_CLOSED = "\n".join(
    f"    tcp-request content set-var(txn.outcome) str(refused_{it}) if {{ var(txn.verdict) -m str {it} }}"
    for it in (Verdict.CALLING.value, Verdict.CALLED.value)
)


def listed(configuration: Understudy) -> list[Allowed]:
    """Return the entries that the configuration gives: its modalities, the primary and the destinations.

    The latter two report on storage commitment.

    Without `Addresses`, a `Host` that is an address counts; a host name is not resolved, because the edge
    starts without a network too, so its device is allowed from everywhere.
    """
    devices = [(item.ae_title, item.host, item.addresses) for item in configuration.modalities]
    devices += [
        (item.ae_title, item.host, item.addresses)
        for item in configuration.destinations
        if item.ae_title is not None and item.host is not None and item.proof in ("auto", "commitment")
    ]
    if configuration.primary is not None:
        primary = configuration.primary
        devices.append((primary.ae_title, primary.host, primary.addresses))
    entries = []
    for ae_title, host, addresses in devices:
        networks: Sequence[str] = addresses or addresses_of(host) or EVERYWHERE
        entries += [Allowed(ae_title, network) for network in networks]
    return entries


def addresses_of(host: str) -> list[str]:
    """Return the host itself where it is an address and no name."""
    try:
        return [network_of(host)]
    except ValueError:
        return []


def render(configuration: Understudy, keys: Path, folder: Path = Path("/etc/understudy/config")) -> str:
    """Return haproxy.cfg; `folder` is where a relative path of the clinic's authority begins.

    Raises ConfigurationError. No name of the configuration reaches HAProxy's syntax: devices go into the
    tables, in hexadecimal.
    """
    values = {
        "GATE": str(TEMPLATES / "gate.lua"),
        "CONTROL": str(SHARED / CONTROL),
        "REPORTS": str(SHARED / REPORTS),
        "DEVICES": str(DEVICES),
        "ADDRESSES": str(ADDRESSES),
        "FULL": str(FULL),
        "DICOM_BINDS": _binds(configuration, keys, folder),
        "STRANGER_RULES": "" if configuration.policy.accept_strangers else _CLOSED,
        "ASSOCIATIONS": str(configuration.edge.associations),
        "PER_DEVICE": str(configuration.edge.associations_of_device),
        "STRANGERS": str(configuration.edge.associations_of_strangers),
    }
    return fill((TEMPLATES / "haproxy.cfg").read_text(encoding="utf-8"), values)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with every word between at-signs replaced; both sides have to name the same."""
    words = set(_WORD.findall(template))
    if words != set(values):
        raise ValueError(f"the template and its values differ in {sorted(words ^ set(values))}")
    return _WORD.sub(lambda match: values[match[1]], template)


def _binds(configuration: Understudy, keys: Path, folder: Path) -> str:
    tls = configuration.dicom_tls
    lines = [] if tls.required else ["    bind :4242"]
    if tls.client_ca is not None:
        authority = folder / tls.client_ca
        # What HAProxy would read as its own syntax.
        if _PLAIN_PATH.fullmatch(str(authority)) is None:
            raise ConfigurationError(
                [f"Understudy.DicomTls.ClientCa: {authority} may hold letters, digits, . _ - / alone"]
            )
        if not authority.is_file():
            raise ConfigurationError([f"Understudy.DicomTls.ClientCa: there is no file {authority}"])
        lines.append(f"    bind :2762 ssl crt {keys / CERTIFICATE} ca-file {authority} verify required")
    return "\n".join(lines)


def devices_table(allowed: Iterable[Allowed]) -> dict[str, str]:
    """Return the gate's table: what stands in it for a calling AE title, both in the words of gate.lua."""
    entries: defaultdict[str, list[str]] = defaultdict(list)
    for entry in allowed:
        called = "*" if entry.called_ae_title is None else _hexadecimal(entry.called_ae_title)
        text = f"{entry.network}|{called}"
        if text not in entries[_hexadecimal(entry.calling_ae_title)]:
            entries[_hexadecimal(entry.calling_ae_title)].append(text)
    return {calling: ",".join(texts) for calling, texts in entries.items()}


def _hexadecimal(ae_title: str) -> str:
    return ae_title.encode("ascii").hex().upper()


def addresses_table(allowed: Iterable[Allowed]) -> list[str]:
    """Return the networks for which the last connections are kept; one that is everywhere names nobody."""
    return sorted({entry.network for entry in allowed} - set(EVERYWHERE))


def read_approved(file: Path) -> list[Allowed]:
    """Return what was approved beyond the configuration, nothing where the file is absent."""
    if not file.exists():
        return []
    return [Allowed(calling, network, called) for calling, network, called in json.loads(file.read_text())]


def approved_json(approved: Iterable[Allowed]) -> bytes:
    """Return the content of that file."""
    rows = [[entry.calling_ae_title, entry.network, entry.called_ae_title] for entry in approved]
    return json.dumps(rows, indent=1).encode()


def write_all(configuration: Understudy, keys: Path, folder: Path, shared: Path, target: Path) -> None:
    """Write everything that the edge loads into the target folder; raises ConfigurationError and OSError."""
    try:
        approved = read_approved(shared / APPROVED)
    except (ValueError, TypeError) as error:
        raise ConfigurationError([f"{shared / APPROVED}: {error}; the agent writes it anew"]) from error
    allowed = [*listed(configuration), *approved]
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, lines in (
        (DEVICES, [f"{calling} {entries}" for calling, entries in devices_table(allowed).items()]),
        (ADDRESSES, addresses_table(allowed)),
        (CONFIGURATION, [render(configuration, keys, folder)]),
    ):
        (target / path.name).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
