"""Checks the appliance's section, and the files that it names."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.errors import AnsibleFilterError
from cryptography import x509

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
CONFIGURATION_FOLDER = PurePosixPath("/etc/understudy/config")
SECRETS_FOLDER = PurePosixPath("/etc/understudy/secrets")
SECRET, PUBLIC = ("CredentialsFile", "Key"), ("Authorities", "Certificate", "ClientCa")
"""The keys of a configuration that name secret files, and those that name public ones."""


def configuration(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of the section, as the appliance's own checker reports them, and of its files."""
    section = values.get("appliance_config", {})
    yield from (f"appliance_config: {problem}" for problem in _judged(section))
    for name in ("appliance_secrets", "appliance_files"):
        files = values.get(name, {})
        for file in files if isinstance(files, Mapping) else ():
            if "/" in file or file.endswith(".json") or not file:
                yield f"{name}: {file!r} is no file name, or ends in .json and would be read as a section"
    yield from _missing_files(values, section)
    yield from _authorities(values, section)


def _judged(section: Any) -> list[str]:
    """Return the problems that the appliance's own checker finds."""
    if str(PLUGINS) not in sys.path:
        sys.path.append(str(PLUGINS))
    try:
        from understudy.config import ConfigurationError, parse
    except ImportError as error:
        raise AnsibleFilterError(
            f"the inventory cannot be checked: {error}. Install python3-pydantic and python3-json5 here"
        ) from error
    try:
        parse(section)
    except ConfigurationError as error:
        return list(error.problems)
    return []


def _missing_files(values: Mapping[str, Any], section: Any) -> Iterator[str]:
    secrets = _filled(values.get("appliance_secrets"))
    others = secrets | _filled(values.get("appliance_files"))
    for key, file in _named_files(section):
        if file.parent not in (CONFIGURATION_FOLDER, SECRETS_FOLDER):
            continue
        if key in SECRET and file.name not in secrets:
            yield f"appliance_secrets: the secret {file.name} is missing, and {key} needs it"
        if key in PUBLIC and file.name not in others:
            yield f"appliance_files: {file.name} is missing, and {key} needs it"
    for certificate, key in (
        ("appliance_tls_certificate", "appliance_tls_key"),
        ("appliance_tls_ca_certificate", "appliance_tls_ca_key"),
        ("appliance_log_server", "appliance_log_ca"),
        ("monitoring_remote_user", "monitoring_remote_password"),
    ):
        if values.get(certificate) and not values.get(key):
            yield f"{key}: it is missing, {certificate} needs it"
    if values.get("appliance_tls_certificate") and values.get("appliance_tls_ca_certificate"):
        yield "appliance_tls_certificate: appliance_tls_ca_certificate would replace it; name one of the two"


def _authorities(values: Mapping[str, Any], section: Any) -> Iterator[str]:
    """Yield the certificate files that have no certificate: the edge would not start with them."""
    files = values.get("appliance_files")
    contents = files if isinstance(files, Mapping) else {}
    for key, file in _named_files(section):
        content = contents.get(file.name)
        if key in PUBLIC and file.parent == CONFIGURATION_FOLDER and content:
            try:
                x509.load_pem_x509_certificate(str(content).encode())
            except ValueError:
                yield f"appliance_files: {file.name} is no certificate in PEM, and {key} needs it"


def _filled(files: Any) -> set[str]:
    return {str(name) for name, content in files.items() if content} if isinstance(files, Mapping) else set()


def _named_files(section: Any) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield every file that a section names, with its key; a path is relative to CONFIGURATION_FOLDER."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key in (*SECRET, *PUBLIC) and isinstance(value, str):
                yield key, CONFIGURATION_FOLDER / value
            yield from _named_files(value)
    elif isinstance(section, list):
        for part in section:
            yield from _named_files(part)
