"""Makes the HAProxy configuration and the gate's tables, which the edge loads at its start, from ours."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from understudy.adapters.in_force import InForce
from understudy.adapters.keys import CERTIFICATE, REVOKED, USERS, KeysError, users
from understudy.adapters.memory import parse_size
from understudy.config import ConfigurationError, Understudy
from understudy.core.gate import (
    EVERYWHERE,
    NOWHERE,
    UNKNOWN,
    Allowed,
    certificate_of,
    is_network,
    network_of,
)
from understudy.core.intake import limits
from understudy.plugin.lists import MOST_RESULTS
from understudy.plugin.volumes import FLAG
from understudy.system.files import write_durably

_log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parents[1] / "edge"

LIVE = Path("/tmp/edge")
"""Folder of the files that the edge loads; commands to HAProxy name its tables by these paths."""

CONFIGURATION, DEVICES, ADDRESSES, CLIENT_CA = (
    LIVE / name for name in ("haproxy.cfg", "devices.map", "addresses.acl", "client-ca.pem")
)

SHARED = Path("/run/understudy-edge")
"""The volume that edge and agent share."""

CONTROL, REPORTS = "haproxy.sock", "reports.sock"
"""In SHARED: HAProxy's control socket, and the socket of the reports on failed handshakes.

The edge of an earlier version ran as another user and had `control.sock`. HAProxy cannot replace another
user's socket. With another name for ours, an installation that goes back to that version still has its own
socket.
"""

APPROVED, NAMES, RUNS = "approved.json", "names.json", "configuration"
"""In SHARED: the approvals and the addresses of host names, which outlive a restart of the edge, and the
digest of the configuration that the edge runs (adapters/in_force.py)."""

_WORD = re.compile(r"@([A-Z_]+)@")


@dataclass(frozen=True, slots=True)
class _Device:
    """One configured device that may open associations to us."""

    ae_title: str
    host: str
    addresses: Sequence[str]
    certificate: str | None
    trusted: bool
    """Whether the device may query and retrieve, or its stores or reports count as proof."""


def _devices(configuration: Understudy) -> list[_Device]:
    readers = {item.ae_title.lower() for item in configuration.modalities if item.reads}
    devices = [
        _Device(
            item.ae_title,
            item.host,
            item.addresses,
            item.client_certificate,
            item.ae_title.lower() in readers,
        )
        for item in configuration.modalities
    ]
    # These destinations send storage commitment reports.
    devices += [
        _Device(item.ae_title, item.host, item.addresses, item.client_certificate, trusted=True)
        for item in configuration.destinations
        if item.ae_title is not None and item.host is not None and item.proof in ("auto", "commitment")
    ]
    if (primary := configuration.primary) is not None:
        certificate = primary.client_certificate
        devices += [
            _Device(title, primary.host, primary.addresses, certificate, trusted=True)
            for title in sorted(primary.titles)
        ]
    return devices


def listed(configuration: Understudy, names: Mapping[str, Sequence[str]]) -> list[Allowed]:
    """Return the allow-list entries of the configuration: modalities, the primary and destinations.

    Without `Addresses`, the address in `Host` counts, or the addresses that `names` has for that host name.
    """
    entries = []
    for device in _devices(configuration):
        nowhere = [NOWHERE if device.trusted else UNKNOWN]
        networks = device.addresses or addresses_of(device.host) or names.get(device.host) or nowhere
        certificate = None if device.certificate is None else certificate_of(device.certificate)
        entries += [Allowed(device.ae_title, network, None, certificate) for network in networks]
    return entries


def hosts_by_name(configuration: Understudy) -> list[str]:
    """Return the host names whose addresses the gate has to know."""
    devices = [item for item in _devices(configuration) if not item.addresses]
    return sorted({item.host for item in devices if not addresses_of(item.host)})


def addresses_of(host: str) -> list[str]:
    """Return the host as a network if it is an address, nothing if it is a name."""
    try:
        return [network_of(host)]
    except ValueError:
        return []


def render(configuration: Understudy, keys: Path) -> str:
    """Return haproxy.cfg, or raise ConfigurationError.

    No name from the configuration gets into haproxy.cfg: devices are in the tables, in hexadecimal.
    """
    values = {
        "EDGE": str(TEMPLATES),
        "CONTROL": str(SHARED / CONTROL),
        "REPORTS": str(SHARED / REPORTS),
        "DEVICES": str(DEVICES),
        "ADDRESSES": str(ADDRESSES),
        "FULL": str(FLAG),
        "PEOPLE": str(keys / USERS),
        "REVOKED": str(keys / REVOKED),
        "AWAY": str(TEMPLATES / "away.html"),
        "DICOM_BINDS": _binds(configuration, keys),
        "STRANGERS_ARE": "accepted" if configuration.policy.accept_strangers else "refused",
        "ASSOCIATIONS": str(configuration.edge.associations),
        "PLACES": str(2 * configuration.edge.associations),
        "PER_DEVICE": str(configuration.edge.associations_of_device),
        "STRANGERS": str(configuration.edge.associations_of_strangers),
        "LARGEST_BODY": str(_largest_body()),
        "MOST_RESULTS": str(MOST_RESULTS),
    }
    return fill((TEMPLATES / "haproxy.cfg").read_text(encoding="utf-8"), values)


def _largest_body() -> int:
    """Return the largest body that Orthanc takes, in bytes, from the memory limit that compose tells us."""
    memory = os.environ.get("UNDERSTUDY_ORTHANC_MEMORY") or "2g"
    try:
        return limits(parse_size(memory)).largest_object
    except ValueError as error:
        raise ConfigurationError([f"UNDERSTUDY_ORTHANC_MEMORY: {error}"]) from error


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with every @WORD@ replaced; template and values have to have the same words."""
    words = set(_WORD.findall(template))
    if words != set(values):
        raise ValueError(f"the template and its values differ in {sorted(words ^ set(values))}")
    return _WORD.sub(lambda match: values[match[1]], template)


def _binds(configuration: Understudy, keys: Path) -> str:
    tls = configuration.dicom_tls
    lines = [] if tls.required else ["    bind :4242"]
    if tls.client_ca is not None:
        lines.append(f"    bind :2762 ssl crt {keys / CERTIFICATE} ca-file {CLIENT_CA} verify required")
    return "\n".join(lines)


def devices_table(allowed: Iterable[Allowed]) -> dict[str, str]:
    """Return the gate's table: the entries for each calling AE title, in the format of admission.lua."""
    entries: defaultdict[str, list[str]] = defaultdict(list)
    for entry in allowed:
        called = "*" if entry.called_ae_title is None else _hexadecimal(entry.called_ae_title)
        calling, certificate = _hexadecimal(entry.calling_ae_title), entry.certificate or "*"
        text = f"{entry.network}|{calling}|{called}|{certificate}"
        # Titles that differ only in case share one key.
        key = _hexadecimal(entry.calling_ae_title.lower())
        if text not in entries[key]:
            entries[key].append(text)
    return {key: ",".join(texts) for key, texts in entries.items()}


def _hexadecimal(ae_title: str) -> str:
    return ae_title.encode("ascii").hex().upper()


def addresses_table(allowed: Iterable[Allowed]) -> list[str]:
    """Return the networks whose last connections are recorded, without those that mean any or no address."""
    return sorted({entry.network for entry in allowed} - {*EVERYWHERE, NOWHERE, UNKNOWN})


def read_approved(file: Path) -> list[Allowed]:
    """Return the approved entries, which add to the configuration; nothing if the file is absent.

    An entry that the edge could not load is left out and logged, because it must not keep the edge from
    starting.
    """
    approved = []
    for row in _rows(file, list):
        match row:
            case [str(calling), str(network), str() | None as called] if is_network(network):
                approved.append(Allowed(calling, network, called))
            case _:
                _log.error("edge approval left out file=%s entry=%.200r", file, row)
    return approved


def read_digest(shared: Path) -> str:
    """Return the digest of the configuration that the edge runs, empty if the edge has not written it."""
    try:
        return (shared / RUNS).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def read_names(file: Path) -> dict[str, list[str]]:
    """Return the last known addresses of host names, nothing if the file is absent."""
    names = _rows(file, dict)
    found = {
        host: [network for network in networks if isinstance(network, str) and is_network(network)]
        for host, networks in names.items()
        if isinstance(networks, list)
    }
    if found != names:
        _log.error("edge names left out file=%s", file)
    return found


_Kind = TypeVar("_Kind", list[Any], dict[Any, Any])


def _rows(file: Path, kind: type[_Kind]) -> _Kind:
    """Return a file's JSON, empty if it is missing or damaged; the agent writes it at its next start."""
    try:
        content = json.loads(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as error:
        _log.error("edge file cannot be read file=%s because=%s", file, error)
        return kind()
    if isinstance(content, kind):
        return content
    _log.error("edge file is not as the agent writes it file=%s", file)
    return kind()


def open_shared(shared: Path) -> None:
    """Give the edge, another user in our group, access to a shared folder that an earlier version made."""
    for path, mode in ((shared, 0o770), (shared / APPROVED, 0o640)):
        # The edge may write to this folder, so a link that it may have made is not followed.
        if path.exists() and not path.is_symlink():
            path.chmod(mode)


def approved_json(approved: Iterable[Allowed]) -> bytes:
    """Return the content of the file of approvals."""
    rows = [[entry.calling_ae_title, entry.network, entry.called_ae_title] for entry in approved]
    return json.dumps(rows, indent=1).encode()


def names_json(names: Mapping[str, Sequence[str]]) -> bytes:
    """Return the content of the file of host names."""
    return json.dumps({host: list(networks) for host, networks in names.items()}, indent=1).encode()


def write_all(runs: InForce, keys: Path, shared: Path, target: Path) -> None:
    """Write everything that the edge loads into the target folder; raises ConfigurationError and OSError."""
    try:
        users(keys)
    except KeysError as error:
        raise ConfigurationError([f"{error}: {error.hint}"]) from error
    names = read_names(shared / NAMES)
    allowed = [*listed(runs.configuration, names), *read_approved(shared / APPROVED)]
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if runs.client_ca is not None:
        (target / CLIENT_CA.name).write_text(runs.client_ca, encoding="latin-1")
    for path, lines in (
        (DEVICES, [f"{calling} {entries}" for calling, entries in devices_table(allowed).items()]),
        (ADDRESSES, addresses_table(allowed)),
        (CONFIGURATION, [render(runs.configuration, keys)]),
    ):
        (target / path.name).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    try:
        # The agent, another user, has to read the file.
        write_durably(shared / RUNS, runs.digest.encode("ascii"), 0o644)
    except OSError as error:
        # The file only informs the agent, so a failure must not keep the edge from starting.
        _log.error("edge configuration not told because=%s", error)
