"""The configuration that a service runs: the one in the folder, or the last valid one if that has errors.

Rule 1: every service decides this by itself at its start, by the same rule, so that none waits for another.
Rule 2: only the agent stores a configuration, once it has started with it, and gives the other services
copies.
Rule 3: the copy has the `*.json` files and the authority of the devices' certificates, which every service
can read in the folder as well. It has no secret file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.config import ConfigurationError, Understudy, parse, read_files, sections_of
from understudy.core.ports import SealError

KEPT = "configuration.json"
"""The copy, on the volume of the keys."""
WRONG = "the configuration is wrong, so the last correct one runs"
HINT = "fix it in the folder orthanc-config (`understudy check-config` checks it), then restart all services"


@dataclass(frozen=True, slots=True)
class InForce:
    """A valid configuration, with the files that it was read from."""

    configuration: Understudy
    files: Mapping[str, str]
    """The text of each `*.json` file by name, with the variables replaced."""
    client_ca: str | None
    """The authority of DICOM over TLS in PEM form, None if it is not used."""
    problems: Sequence[str] = ()
    """The errors of the configuration in the folder, if this one runs in its place."""

    def kept(self) -> str:
        """Return the text of the copy."""
        return json.dumps({"files": dict(self.files), "client_ca": self.client_ca}, indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        """A short digest that identifies this configuration, the same in every service."""
        return hashlib.sha256(self.kept().encode("ascii")).hexdigest()[:16]


def choose(folder: Path, kept: Path, environment: Mapping[str, str] = os.environ) -> InForce:
    """Return the configuration to run; raise ConfigurationError if neither folder nor copy is valid."""
    try:
        return present(folder, environment)
    except ConfigurationError as error:
        last = _last(kept)
        if last is None:
            raise
        return replace(last, problems=tuple(error.problems))


def present(folder: Path, environment: Mapping[str, str] = os.environ) -> InForce:
    """Return the configuration in the folder, or raise ConfigurationError with every problem."""
    files = read_files(folder, environment)
    configuration = _parsed(files)
    return InForce(configuration, files, _client_ca(configuration, folder))


def _last(kept: Path) -> InForce | None:
    """Return the configuration of the copy, None if there is none or this version refuses it."""
    try:
        document = json.loads(kept.read_text(encoding="ascii"))
        files = {str(name): str(text) for name, text in document["files"].items()}
        client_ca = document["client_ca"]
        return InForce(_parsed(files), files, None if client_ca is None else str(client_ca))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError):
        return None


def _parsed(files: Mapping[str, str]) -> Understudy:
    configuration = parse(sections_of(files).get("Understudy", {}))
    if problems := list(_wrong_recipients(configuration)):
        raise ConfigurationError(problems)
    return configuration


def _wrong_recipients(configuration: Understudy) -> Iterator[str]:
    """Yield the vaults' invalid recipients, which would keep the agent from starting."""
    for number, vault in enumerate(configuration.vaults):
        if vault.recipients:
            # Imported here because loading it takes longer than a command that does not need it.
            from understudy.adapters.encryption import AgeSealer

            try:
                AgeSealer(vault.recipients)
            except SealError as error:
                yield f"Understudy.Vaults[{number}].Recipients: {error}: {error.hint}"


def _client_ca(configuration: Understudy, folder: Path) -> str | None:
    name = configuration.dicom_tls.client_ca
    if name is None:
        return None
    # Imported here because loading it takes longer than everything else.
    from cryptography.x509 import load_pem_x509_certificates

    file = folder / name
    try:
        content = file.read_bytes()
        load_pem_x509_certificates(content)
        return content.decode("latin-1")
    except OSError as error:
        problem = f"there is no file {file}" if isinstance(error, FileNotFoundError) else str(error)
    except ValueError:
        problem = f"{file} holds no certificate in PEM form"
    raise ConfigurationError([f"Understudy.DicomTls.ClientCa: {problem}"])
