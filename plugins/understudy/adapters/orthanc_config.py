"""Makes the part of Orthanc's configuration that depends on ours: AE title, devices, service accounts."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from understudy.config import ConfigurationError, Understudy
from understudy.core.intake import MIB, SPARE_THREADS, limits
from understudy.plugin.parking import word

RECEPTION = "reception"
"""The file with the reception's limits, beside generated.json; Orthanc reads only *.json."""

SERVICE_ACCOUNTS = ("agent", "edge")


@dataclass(frozen=True, slots=True)
class _Device:
    """One DICOM peer of Orthanc."""

    name: str
    ae_title: str
    host: str
    port: int
    reads: bool


def _devices(configuration: Understudy) -> list[_Device]:
    devices = [
        _Device(f"modality-{item.name}", item.ae_title, item.host, item.port, item.reads)
        for item in configuration.modalities
    ]
    # Destinations send storage commitment reports.
    devices += [
        _Device(f"destination-{item.name}", item.ae_title, item.host, item.port, reads=False)
        for item in configuration.destinations
        if item.ae_title is not None and item.host is not None
    ]
    if configuration.primary is not None:
        primary = configuration.primary
        devices.append(_Device("primary", primary.ae_title, primary.host, primary.port, reads=False))
    return devices


def _accounts(keys: Path) -> dict[str, str]:
    accounts: dict[str, str] = {}
    problems: list[str] = []
    for name in SERVICE_ACCOUNTS:
        file = keys / "service" / name
        try:
            secret = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{file}: {error}")
            continue
        # Orthanc would accept an empty password.
        if not secret:
            problems.append(f"{file}: the file is empty")
        accounts[name] = secret
    if problems:
        raise ConfigurationError(problems)
    return accounts


def render(configuration: Understudy, keys: Path, memory: int) -> dict[str, object]:
    """Return the content of generated.json, or raise ConfigurationError for passwords that cannot be read.

    `memory` is the memory limit of Orthanc's container, in bytes. An idle association occupies a thread, so
    there are more threads than associations that the edge lets in.

    Orthanc lets every caller echo and store. The edge has already decided by address and AE title, only the
    edge reaches the DICOM port, and an approved device must not need a restart of Orthanc. Only devices with
    `Reads` may query and retrieve. Orthanc decides by AE title alone, and if several devices share an AE
    title, it allows only what all of them may do. So all of them get every right that one of them has
    (Orthanc, main.cpp, IsAllowedRequest).
    """
    devices = _devices(configuration)
    reads_by_ae_title: defaultdict[str, bool] = defaultdict(bool)
    for device in devices:
        reads_by_ae_title[device.ae_title] |= device.reads
    modalities: dict[str, object] = {}
    for device in devices:
        reads = reads_by_ae_title[device.ae_title]
        modalities[device.name] = {
            "AET": device.ae_title,
            "Host": device.host,
            "Port": device.port,
            "AllowEcho": True,
            "AllowStore": True,
            "AllowStorageCommitment": True,
            "AllowFind": reads,
            "AllowFindWorklist": reads,
            "AllowGet": reads,
            "AllowMove": reads,
        }
    intake = limits(memory)
    return {
        "DicomAet": configuration.ae_title,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": modalities,
        "DicomThreadsCount": configuration.edge.associations + SPARE_THREADS,
        "LimitFindInstances": intake.found_instances,
        "LimitFindResults": intake.found,
        "MaximumRequestBodySizeMB": intake.largest_object // MIB,
        "RegisteredUsers": _accounts(keys),
        # Our plugin reads only Orthanc's configuration, so its settings are here, with the defaults filled
        # in.
        "UnderstudyPlugin": {
            "RefusePercent": configuration.policy.refuse_percent,
            "BallastBytes": configuration.policy.ballast_bytes,
        },
    }


def render_reception(configuration: Understudy, memory: int) -> str:
    """Return the limits for docker/reception, one `NAME VALUE` per line."""
    intake = limits(memory)
    lines = [
        f"largest {intake.largest_object}",
        f"memory {intake.memory}",
        f"associations {configuration.edge.associations}",
        f"found {intake.found}",
        f"found_instances {intake.found_instances}",
    ]
    titles = sorted({word(device.ae_title) for device in _devices(configuration)})
    return "".join(f"{line}\n" for line in [*lines, *(f"known {title}" for title in titles)])
