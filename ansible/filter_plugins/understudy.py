"""Filters of the plays: the check of the whole inventory, and what is worked out on the control machine.

Rule 1: every problem of every host is found in one run, before anything changes.
Rule 2: the appliance's section is judged by the appliance's own checker. There is no second opinion of what
an AE title is.
"""

import ipaddress
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from jinja2 import TemplateError

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
CONFIGURATION_FOLDER = PurePosixPath("/etc/understudy/config")
SECRET, PUBLIC = ("CredentialsFile", "Key"), ("Authorities", "Certificate", "ClientCa")
"""The keys of a configuration that name files."""
NETWORKS = ("host_ssh_networks", "host_dicom_networks", "host_https_networks")
ENGINE_PREFIX = 22
"""Of the containers' networks each takes a /24: docker0, and the two of the compose project."""

Spec = Mapping[str, Mapping[str, Any]]


def problems(hosts: Sequence[str], hostvars: Mapping[str, Any], playbook_dir: str) -> list[str]:
    """Return every problem of the inventory, each beginning with the hosts that it is about."""
    specs = argument_specs(Path(playbook_dir) / "roles")
    found: list[str] = []
    known = {}
    for host in hosts:
        values, unreadable = readable(hostvars[host], specs)
        known[str(host)] = values
        found += [f"{host}: {problem}" for problem in (*unreadable, *of_host(values, specs))]
    return found + list(of_all(known))


def argument_specs(roles: Path) -> dict[str, Spec]:
    """Return each role's options."""
    return {
        path.parents[1].name: yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"][
            "options"
        ]
        for path in sorted(roles.glob("*/meta/argument_specs.yml"))
    }


def readable(variables: Mapping[str, Any], specs: Mapping[str, Spec]) -> tuple[dict[str, Any], list[str]]:
    """Return a host's variables as far as they matter, and a problem for each part that cannot be had."""
    ours = ("ansible_host", "ansible_port", *(f"{role}_" for role in specs))
    unreadable: list[str] = []
    names = [name for name in variables if str(name).startswith(ours)]
    return {str(name): plain(variables, name, str(name), unreadable) for name in names}, unreadable


def plain(container: Any, key: Any, path: str, unreadable: list[str]) -> Any:
    """Return what is in a container without Ansible's types, templates worked out; None if they cannot be."""
    try:
        value = container[key]
        if isinstance(value, Mapping):
            return {str(name): plain(value, name, f"{path}.{name}", unreadable) for name in value}
        if isinstance(value, (list, tuple)):
            return [plain(value, index, f"{path}[{index}]", unreadable) for index in range(len(value))]
        return value if value is None or isinstance(value, (bool, int, float)) else str(value)
    except (AnsibleError, TemplateError) as error:
        # The message names variables, and never a value.
        because = str(error.message).splitlines()[0]
        unreadable.append(f"{path}: it cannot be worked out, is a secret missing? {because}")
        return None


# --- One host ---------------------------------------------------------------------------------------------


def of_host(values: Mapping[str, Any], specs: Mapping[str, Spec]) -> Iterator[str]:
    """Yield the problems of one host."""
    for role, spec in specs.items():
        mine = {name: value for name, value in values.items() if name.startswith(f"{role}_")}
        for name in sorted(set(mine) - set(spec)):
            yield f"{name}: the role {role} knows no such variable; roles/{role}/README.md lists all"
        # What could not be worked out is told already.
        given = {name: value for name, value in mine.items() if name in spec and value is not None}
        yield from ArgumentSpecValidator(_validated(spec)).validate(given).error_messages
    yield from _configuration(values)
    yield from _certificates(values)
    yield from _image(values)
    yield from _networks(values)
    yield from _engine(values, spec=specs["engine"])
    yield from _takeover(values)


def _validated(spec: Spec) -> dict[str, Any]:
    """Return the specification as the validator takes it: without texts."""
    kept: dict[str, Any] = {}
    for name, option in spec.items():
        kept[name] = {key: value for key, value in option.items() if key not in ("description", "options")}
        if "options" in option:
            kept[name]["options"] = _validated(option["options"])
    return kept


def _configuration(values: Mapping[str, Any]) -> Iterator[str]:
    section = values.get("appliance_config", {})
    yield from (f"appliance_config: {problem}" for problem in _judged(section))
    for name in ("appliance_secrets", "appliance_files"):
        files = values.get(name, {})
        for file in files if isinstance(files, Mapping) else ():
            if "/" in file or file.endswith(".json") or not file:
                yield f"{name}: {file!r} is no file name, or ends in .json and would be read as a section"
    yield from _missing_files(values, section)


def _judged(section: Any) -> list[str]:
    """Return what the appliance's own checker says."""
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
        if file.parent != CONFIGURATION_FOLDER:
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


def _certificates(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with given certificates: with another's key the edge would not start any more."""
    for name in ("appliance_tls", "appliance_tls_ca"):
        certificate, key = (str(values.get(f"{name}_{part}") or "") for part in ("certificate", "key"))
        if not (certificate and key):
            # Not given, or told already.
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
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if private.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
            yield f"{name}_key: it does not belong to the first certificate of {name}_certificate"


def _filled(files: Any) -> set[str]:
    return {str(name) for name, content in files.items() if content} if isinstance(files, Mapping) else set()


def _named_files(section: Any) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield every file that a section names, with its key; a relative path begins in the folder."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key in (*SECRET, *PUBLIC) and isinstance(value, str):
                yield key, CONFIGURATION_FOLDER / value
            yield from _named_files(value)
    elif isinstance(section, list):
        for part in section:
            yield from _named_files(part)


def _image(values: Mapping[str, Any]) -> Iterator[str]:
    file, image = values.get("appliance_image_file", ""), values.get("appliance_image", "")
    if not isinstance(file, str) or not isinstance(image, str):
        return
    if file:
        try:
            image_id(file)
        except AnsibleFilterError as error:
            yield f"appliance_image_file: {error.message}"
    elif not image:
        yield "appliance_image: name the image by its digest, or a file in appliance_image_file"
    elif "sha256:" not in image:
        yield f"appliance_image: {image} names no digest, and a tag may change its image: NAME@sha256:..."


def _networks(values: Mapping[str, Any]) -> Iterator[str]:
    for name in NETWORKS:
        listed = values.get(name, [])
        for network in listed if isinstance(listed, list) else ():
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                yield f"{name}: {error}"


def _engine(values: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the containers' network; what lies in it cannot be reached from the host."""
    try:
        network = ipaddress.IPv4Network(values.get("engine_network", spec["engine_network"]["default"]))
    except ValueError as error:
        yield f"engine_network: {error}"
        return
    if network.prefixlen > ENGINE_PREFIX:
        yield f"engine_network: {network} is too small, /{ENGINE_PREFIX} is the least"
    for name, address in _reached(values):
        try:
            other = ipaddress.ip_network(address, strict=False)
        except ValueError:
            # A name, or told already.
            continue
        # Who lets everybody in names nobody.
        if other.prefixlen and network.overlaps(other):
            yield f"engine_network: {network} and {address} of {name} overlap: nothing there could be reached"


def _reached(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each address and network that a host talks to, with the variable that names it."""
    for name in NETWORKS:
        listed = values.get(name, [])
        yield from ((name, str(network)) for network in (listed if isinstance(listed, list) else ()))
    yield "ansible_host", str(values.get("ansible_host", ""))
    yield "takeover_address", str(values.get("takeover_address", ""))
    yield from (("appliance_config", address) for address in _peers(values.get("appliance_config")))


def _peers(section: Any) -> Iterator[str]:
    """Yield the host and the addresses of every party that a section names."""
    if isinstance(section, Mapping):
        addresses = section.get("Addresses")
        yield str(section.get("Host", ""))
        yield from map(str, addresses if isinstance(addresses, list) else ())
        for value in section.values():
            yield from _peers(value)
    elif isinstance(section, list):
        for part in section:
            yield from _peers(part)


def _takeover(values: Mapping[str, Any]) -> Iterator[str]:
    address = values.get("takeover_address", "")
    if address:
        try:
            ipaddress.IPv4Interface(address)
        except ValueError as error:
            yield f"takeover_address: {error}"
    if values.get("takeover_method") == "keepalived" and "/" not in str(address):
        yield "takeover_address: keepalived needs it with its prefix length, for example 192.0.2.11/24"
    section = values.get("appliance_config")
    primary = section.get("Primary") if isinstance(section, Mapping) else None
    if address and isinstance(primary, Mapping) and primary.get("Host") == str(address).partition("/")[0]:
        yield (
            f"takeover_address: {primary['Host']} is also Primary.Host. The standby holds it until settle, "
            "and the failback has to reach the PACS before: give the PACS a second address for the modalities"
        )


# --- All hosts --------------------------------------------------------------------------------------------


def of_all(known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong between hosts."""
    addresses, sites = defaultdict(set), defaultdict(set)
    for host, values in known.items():
        port = values.get("ansible_port", 22)
        addresses[f"{values.get('ansible_host', host)} (SSH port {port})"].add(host)
        if values.get("takeover_address"):
            addresses[str(values["takeover_address"]).partition("/")[0]].add(host)
            addresses[f"{str(values['takeover_address']).partition('/')[0]} (SSH port {port})"].add(host)
        section = values.get("appliance_config")
        sites[section.get("Site", "clinic") if isinstance(section, Mapping) else "clinic"].add(host)
    for address, hosts in addresses.items():
        if len(hosts) > 1:
            yield f"{', '.join(sorted(hosts))}: they have one address, {address}"
    for site, hosts in sites.items():
        if len(hosts) > 1:
            yield f"{', '.join(sorted(hosts))}: they have one site name, appliance_config.Site {site!r}"


# --- On the control machine -------------------------------------------------------------------------------


def image_id(file: str) -> str:
    """Return the ID of the image in an archive made by `docker save`."""
    try:
        with tarfile.open(file) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            (image,) = json.loads(manifest.read())
    except (OSError, KeyError, ValueError, AssertionError, tarfile.TarError) as error:
        raise AnsibleFilterError(
            f"{file} is no archive of one image, made by `docker save`: {error}"
        ) from error
    return "sha256:" + PurePosixPath(image["Config"]).name.removesuffix(".json")


def within(address: str, networks: Sequence[str]) -> bool:
    """Say whether an address is in one of the networks."""
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


def sign(request: str, certificate: str, key: str, days: int) -> str:
    """Return the certificate (PEM) that an authority gives for a request (PKCS #10), for a server."""
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


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names in templates."""
        return {
            "understudy_problems": problems,
            "understudy_within": within,
            "understudy_image_id": image_id,
            "understudy_sign": sign,
        }
