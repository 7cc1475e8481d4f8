"""Checks one host: its single variables, image, ports, people, units and takeover."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from inventory_check.certificates import certificates
from inventory_check.image import image_id
from inventory_check.networks import engine, networks
from inventory_check.section import configuration
from inventory_check.variables import Spec


def of_host(values: Mapping[str, Any], specs: Mapping[str, Spec]) -> Iterator[str]:
    """Yield the problems of one host."""
    for role, spec in specs.items():
        mine = {name: value for name, value in values.items() if name.startswith(f"{role}_")}
        for name in sorted(set(mine) - set(spec)):
            yield f"{name}: the role {role} knows no such variable; roles/{role}/README.md lists all"
        # A value that could not be resolved is reported already.
        given = {name: value for name, value in mine.items() if name in spec and value is not None}
        yield from ArgumentSpecValidator(_validated(spec)).validate(given).error_messages
    yield from configuration(values)
    yield from certificates(values)
    yield from _image(values)
    yield from networks(values)
    yield from _ports(values)
    yield from _host(values)
    yield from _people(values)
    yield from engine(values, spec=specs["engine"])
    yield from _takeover(values)


def _validated(spec: Spec) -> dict[str, Any]:
    """Return the specification as the validator accepts it: without descriptions."""
    kept: dict[str, Any] = {}
    for name, option in spec.items():
        kept[name] = {key: value for key, value in option.items() if key not in ("description", "options")}
        if "options" in option:
            kept[name]["options"] = _validated(option["options"])
    return kept


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


def _ports(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield each port that is used twice."""
    more = values.get("appliance_more_dicom_ports", [])
    ports = {
        "host_ssh_port": [values.get("host_ssh_port", 22)],
        "appliance_dicom_port": [values.get("appliance_dicom_port", 4242)],
        "appliance_dicom_tls_port": [values.get("appliance_dicom_tls_port", 2762)],
        "appliance_https_port": [values.get("appliance_https_port", 8443)],
        "appliance_more_dicom_ports": more if isinstance(more, list) else [],
    }
    names = defaultdict(list)
    for name, listed in ports.items():
        for port in listed:
            names[str(port)].append(name)
    for port, listeners in names.items():
        if len(listeners) > 1:
            yield f"{listeners[1]}: {listeners[0]} has port {port}, too"


def _host(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield values that systemd, rsyslog or mount would refuse in the middle of the play."""
    window = str(values.get("host_update_time", "03:00"))
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", window) is None:
        yield f'host_update_time: {window} is no time of day in quotes, for example "03:00"'
    server = str(values.get("appliance_log_server") or "")
    if server and re.fullmatch(r"[^:\s]+:\d{1,5}", server) is None:
        yield f"appliance_log_server: {server} names no port, for example logs.example.org:6514"
    disks = values.get("host_disks", [])
    known = [disk for disk in disks if isinstance(disk, Mapping)] if isinstance(disks, list) else []
    for key in ("device", "path"):
        for value, times in Counter(str(disk.get(key)) for disk in known).items():
            if times > 1:
                yield f"host_disks: {value} is listed {times} times"


def _people(values: Mapping[str, Any]) -> Iterator[str]:
    users, removed = values.get("appliance_users", []), values.get("appliance_users_removed", [])
    names = (
        [str(user.get("name")) for user in users if isinstance(user, Mapping)]
        if isinstance(users, list)
        else []
    )
    for name, times in Counter(names).items():
        if re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name) is None:
            yield f"appliance_users: {name!r} is no user name: a-z, then up to 31 of a-z, 0-9, - and _"
        if times > 1:
            yield f"appliance_users: {name} is listed {times} times"
        if isinstance(removed, list) and name in removed:
            yield f"appliance_users_removed: {name} is in appliance_users, too"


def _takeover(values: Mapping[str, Any]) -> Iterator[str]:
    address = values.get("takeover_address", "")
    if address:
        try:
            IPv4Interface(address)
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
