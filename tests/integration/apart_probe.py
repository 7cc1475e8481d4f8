"""Tries, inside a container, what somebody can do who has taken it over (usage: probe SERVICE); prints JSON.

It is sent into the container as it stands: the standard library alone, and nothing of the appliance's code.
A call counts as let in where the answer is neither 401 nor 403. None of them changes anything: each is about
something that is absent, or names an epoch that nobody is in.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any

SECONDS = 30
KEYS = "/var/lib/understudy-keys"
OURS = ("/var/lib/", "/run/", "/etc/understudy", "/tmp")
HOSTS, PORTS = ("edge", "orthanc", "agent"), (2762, 4242, 8042, 8443)
JSON = {"Content-Type": "application/json"}
ADMINISTRATOR = {"X-Understudy-User": "eve", "X-Understudy-Role": "admin"}
OF_THE_AGENT: tuple[tuple[str, str, object], ...] = (
    ("GET", "/understudy/status", None),
    ("POST", "/understudy/promote", {"reason": "probe", "epoch": 999_999, "force": True}),
    ("POST", "/understudy/modalities/approve", {}),
    ("POST", "/understudy/obligations/waive", {}),
)
OF_ORTHANC = {
    "read": ("GET", "/studies"),
    "store": ("POST", "/instances"),
    "delete": ("DELETE", "/studies/absent"),
    "delete by another name": ("GET", "/studies/absent?_method=DELETE"),
    "delete many": ("POST", "/tools/bulk-delete"),
    "see devices": ("GET", "/modalities"),
    "change devices": ("PUT", "/modalities/x"),
    "send to devices": ("POST", "/modalities/x/store"),
    "change metadata": ("PUT", "/studies/absent/metadata/1024"),
    "run a script": ("POST", "/tools/execute-script"),
    "stop Orthanc": ("POST", "/tools/shutdown"),
    "empty Orthanc": ("POST", "/tools/reset"),
    "log more": ("PUT", "/tools/log-level"),
    "forget changes": ("DELETE", "/changes"),
    "act at the agent": ("GET", "/understudy/status"),
}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def call(
    connection: http.client.HTTPConnection, method: str, target: str, headers: dict[str, str], body: object
) -> int:
    """Return the status, 0 where there is no answer."""
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, target, content, headers | (JSON if body is not None else {}))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def let_in(status: int) -> bool:
    """Return whether the caller was let in; no answer is no refusal."""
    return status not in (401, 403)


def readable(folder: str) -> dict[str, str]:
    """Return every file below that can be read, with its text, but none that is about to replace another."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.name.startswith(".") and path.suffix == ".part":
            continue
        try:
            found[str(path.relative_to(folder))] = path.read_text("latin-1")
        except OSError:
            continue
    return found


def mounts() -> list[str]:
    """Return the mounted folders that are the appliance's, and whatever else can be written to."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return sorted({line.split()[1] for line in lines} | {"/", "/etc", "/opt/understudy", "/var/lib"})


def writable(folder: str) -> bool:
    """Return whether a file can be made in the folder."""
    path = Path(folder, f"probe-{uuid.uuid4()}")
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def sockets() -> dict[str, str]:
    """Return every Unix socket that takes a connection, with its type."""
    found = {}
    for path in sorted(Path("/run").rglob("*")):
        if not path.is_socket():
            continue
        for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
            with socket.socket(socket.AF_UNIX, kind) as tried:
                try:
                    tried.connect(str(path))
                    found[str(path)] = name
                except OSError:
                    continue
    return found


def signed(key: str, method: str, target: str) -> dict[str, str]:
    """Return the headers of a person whom the edge has signed for."""
    moment, nonce = f"{time.time():.0f}", str(uuid.uuid4())
    said = f"{moment} {nonce} admin eve {method} {target}".encode()
    return ADMINISTRATOR | {
        "X-Understudy-Time": moment,
        "X-Understudy-Nonce": nonce,
        "X-Understudy-Signature": hmac.new(base64.b64decode(key), said, hashlib.sha256).hexdigest(),
    }


def at_the_agent(path: str, signing: str | None) -> dict[str, list[bool]]:
    """Return which of the agent's calls let in a forged person, and one that is signed with what is here."""
    forged, proven = [], []
    for method, target, body in OF_THE_AGENT:
        forged.append(let_in(call(UnixConnection(path), method, target, ADMINISTRATOR, body)))
        if signing is not None:
            headers = signed(signing, method, target)
            proven.append(let_in(call(UnixConnection(path), method, target, headers, body)))
    return {"forged": forged, "signed": proven}


def at_orthanc(account: str, password: str) -> list[str]:
    """Return what the account opens, in the name of an administrator."""
    login = base64.b64encode(f"{account}:{password}".encode()).decode()
    headers = ADMINISTRATOR | {"Authorization": f"Basic {login}"}
    done = []
    for name, (method, target) in OF_ORTHANC.items():
        connection = http.client.HTTPConnection("orthanc", 8042, timeout=SECONDS)
        if let_in(call(connection, method, target, headers, {} if method in ("POST", "PUT") else None)):
            done.append(name)
    return done


def control_answers() -> bool:
    """Return whether the edge's control socket takes a command."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect("/run/understudy-edge/haproxy.sock")
            connection.sendall(b"show info\n")
            return b"HAProxy" in connection.recv(4096)
    except OSError:
        return False


def reached(service: str) -> list[str]:
    """Return the ports of the others that take a connection."""
    open_ports = []
    for host in HOSTS:
        if host == service:
            continue
        for port in PORTS:
            try:
                with socket.create_connection((host, port), SECONDS):
                    open_ports.append(f"{host}:{port}")
            except OSError:
                continue
    return open_ports


def main() -> None:
    """Print all of it."""
    keys = {folder: readable(folder) for folder in (KEYS, f"{KEYS}-of-edge", f"{KEYS}-of-orthanc")}
    own = keys[KEYS]
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = sockets()
    seen: dict[str, Any] = {
        "user": f"{os.getuid()}:{os.getgid()}",
        "groups": sorted(set(os.getgroups()) - {os.getgid()}),
        "capabilities": [name for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)],
        "mounts": [path for path in mounts() if path.startswith(OURS)],
        "writable": [path for path in mounts() if writable(path)],
        "keys": keys,
        "secrets": sorted(readable("/etc/understudy/secrets")),
        "environment": Path("/proc/1/environ").read_text("latin-1").split("\0"),
        "sockets": found,
        "agent": {
            path: at_the_agent(path, own.get("service/signing"))
            for path in found
            if path.endswith("agent.sock")
        },
        "orthanc": {
            account: at_orthanc(account, own[f"service/{account}"].strip())
            for account in ("edge", "agent")
            if f"service/{account}" in own
        },
        "control": control_answers(),
        "ports": reached(sys.argv[1]),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
