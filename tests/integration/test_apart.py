"""What a service can do when it is taken over: the table of docs/security.md, walked in each container."""

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.edge_peers import echo
from tests.stack import REPOSITORY, TEST_PROJECT, Stack, run, wait_until

pytestmark = pytest.mark.needs("image")

SERVICES = ("edge", "orthanc", "agent")
PROBE = Path(__file__).with_name("apart_probe.py")
SECURITY = REPOSITORY / "docs" / "security.md"
BEGIN, END = "<!-- begin apart -->", "<!-- end apart -->"
OF_DOCKER = ("/dev/shm", "/dev/mqueue")
"""Every container has them, in memory and for itself."""
HEADING = "| what | `edge` | `orthanc` | `agent` |"

Seen = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def apart() -> Iterator[Stack]:
    """The appliance with one secret, as the credentials of an S3 vault would be."""
    folder = Path(tempfile.mkdtemp(prefix="apart"))
    folder.chmod(0o755)
    secret = folder / "s3.secret"
    secret.write_text('{"access_key": "A", "secret_key": "B"}')
    secret.chmod(0o444)
    stack = Stack(f"{TEST_PROJECT}-apart", lab=False, environment={"UNDERSTUDY_SECRETS": str(folder)})
    stack.down()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def seen(apart: Stack) -> Seen:
    """What the probe found in each container; the agent is where all that it may be told of is there."""
    wait_until(
        lambda: apart.shell("agent", "ls /var/lib/understudy-keys /run/understudy-edge"),
        lambda listed: {"ledger.anchor", "approved.json", "reports.sock"} <= set(listed.split()),
        deadline=120,
        what="everything that the agent makes",
    )
    script = PROBE.read_bytes()
    return {
        service: json.loads(apart.execute(service, "/usr/bin/python3", "-", service, stdin=script))
        | {"networks": sorted(apart.inspect(service)["NetworkSettings"]["Networks"])}
        for service in SERVICES
    }


def words(items: Any) -> str:
    """Return the items as a cell of the table."""
    return ", ".join(f"`{item}`" for item in items) or "none"


def in_environment(found: Mapping[str, Any], secrets: Mapping[str, str]) -> list[str]:
    """Return the names of the secrets that the first process's environment holds, plain or in Base64."""
    values = " ".join(line.partition("=")[2] for line in found["environment"])
    values += " " + " ".join(_decoded(word) for word in values.split())
    return [name for name, secret in sorted(secrets.items()) if secret in values]


def _decoded(word: str) -> str:
    try:
        return base64.b64decode(word, validate=True).decode("latin-1")
    except ValueError:
        return ""


def at_the_agent(found: Mapping[str, Any]) -> str:
    """Return as whom the service can act at the agent."""
    calls = [lets for by_socket in found["agent"].values() for lets in by_socket.values()]
    assert found["agent"], "the probe reached no socket of the agent, so that nothing is shown"
    assert all(len(set(lets)) <= 1 for lets in calls), "every call has to be judged alike"
    return "any person" if any(any(lets) for lets in calls) else "nobody"


def table(seen: Seen) -> list[str]:
    """Return the table as it should stand in the document."""
    agents = seen["agent"]["keys"]["/var/lib/understudy-keys"]
    secrets = {name: text.strip() for name, text in agents.items() if name.startswith("service/")}
    rows: dict[str, list[str]] = {
        "user, and group of others": [
            f"`{seen[name]['user']}`" + "".join(f", `{group}`" for group in seen[name]["groups"])
            for name in SERVICES
        ],
        "capabilities": [words(seen[name]["capabilities"]) for name in SERVICES],
        "reads keys": [
            words(sorted({file for files in seen[name]["keys"].values() for file in files}))
            for name in SERVICES
        ],
        "reads files of secrets": ["yes" if seen[name]["secrets"] else "no" for name in SERVICES],
        "has in its environment": [words(in_environment(seen[name], secrets)) for name in SERVICES],
        "writes to": [
            words(path for path in seen[name]["writable"] if path not in OF_DOCKER) for name in SERVICES
        ],
        "reads besides": [
            words(path for path in seen[name]["mounts"] if path not in seen[name]["writable"])
            for name in SERVICES
        ],
        "reaches sockets": [words(seen[name]["sockets"]) for name in SERVICES],
        "acts at the agent as": [at_the_agent(seen[name]) for name in SERVICES],
        "commands the edge": ["yes" if seen[name]["control"] else "no" for name in SERVICES],
        "knows Orthanc's accounts": [words(seen[name]["orthanc"]) for name in SERVICES],
        "as `edge` at Orthanc may": [
            ", ".join(seen[name]["orthanc"].get("edge", ["nothing"])) for name in SERVICES
        ],
        "as `agent` at Orthanc may": [
            ", ".join(seen[name]["orthanc"].get("agent", ["nothing"])) for name in SERVICES
        ],
        "is on networks": [
            words(name.removeprefix(f"{TEST_PROJECT}-apart_") for name in seen[service]["networks"])
            for service in SERVICES
        ],
        "reaches ports": [words(seen[name]["ports"]) for name in SERVICES],
    }
    lines = [f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()]
    return [HEADING, "| --- | --- | --- | --- |", *lines]


def test_table_of_the_services_is_what_each_container_shows(seen: Seen) -> None:
    text = SECURITY.read_text(encoding="utf-8")
    documented = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    found = table(seen)
    assert documented == found, "the table should be:\n" + "\n".join(found)


def test_no_service_believes_a_forged_person(seen: Seen) -> None:
    """Apart from the document, so that a table that was copied from a fault does not pass."""
    for service in ("edge", "orthanc"):
        for lets in seen[service]["agent"].values():
            assert lets["forged"] == [False] * 4
    assert set(seen["orthanc"]["keys"]["/var/lib/understudy-keys"]) == {
        "configuration.json",
        "ready",
        "service/agent",
        "service/edge",
    }
    assert not {"service/agent", "vault-recipient"} & set(seen["edge"]["keys"]["/var/lib/understudy-keys"])
    never = {"run a script", "stop Orthanc", "empty Orthanc", "change devices", "forget changes"}
    for service in SERVICES:
        for done in seen[service]["orthanc"].values():
            assert not never & set(done)
    # The probe can see a call that is let in: the agent is its own administrator.
    (own,) = (lets for path, lets in seen["agent"]["agent"].items() if path == "/run/understudy/agent.sock")
    assert own["forged"] == [True] * 4
    # And one that is signed: whoever has the edge speaks for people, who sign in there.
    (by_the_edge,) = seen["edge"]["agent"].values()
    assert by_the_edge["signed"] == [True] * 4


def test_nothing_changed_by_all_of_that(apart: Stack, seen: Seen) -> None:
    status = apart.get("/understudy/status")
    assert (status["mode"], status["epoch"]) == ("standby", 0)


def test_installation_of_an_earlier_version_goes_on_with_its_passwords(apart: Stack, seen: Seen) -> None:
    """One volume of keys for all, and one user: an update finds no other volume and no signing key."""
    login, certificate = apart.admin, apart.first_start().fingerprint
    apart.close()
    apart.compose("down", "--timeout", "20")
    names = ("keys-edge", "keys-orthanc", "sockets-edge", "sockets-orthanc", "intake")
    run(["docker", "volume", "rm", *(f"{apart.project}_{name}" for name in names)])
    apart.compose(
        *("run", "--rm", "--no-deps", "--entrypoint", "bash", "agent", "-euc"),
        # What the edge left behind belongs to the user that it was.
        "rm /var/lib/understudy-keys/service/signing; cd /run/understudy-edge; rm haproxy.sock; "
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"haproxy.sock\")'; "
        "chmod 0750 .; chmod 0600 approved.json",
    )
    # The container above has made the volumes of this version.
    run(["docker", "volume", "rm", *(f"{apart.project}_{name}" for name in names)])
    apart.up()
    assert apart.admin == login
    assert apart.get("/understudy/status")["mode"] == "standby"
    assert apart.first_start().fingerprint == certificate
    assert echo(apart.dicom, "CT1", "UNDERSTUDY") == 0
    # The agent commands the edge, which is another user now.
    device = {"calling_ae_title": "CT9", "address": "192.0.2.9"}
    assert apart.post("/understudy/modalities/approve", device)["live"] is True
