"""One host that the play made a standby of, beside a stock Orthanc as the PACS that it stands by for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.ansible import clients, target
from tests.stack import LAB_IMAGE, TEST_PROJECT, run, wait_until

SUBNET = "172.31.251.0/24"
GATEWAY, HOST, PACS = "172.31.251.1", "172.31.251.20", "172.31.251.10"
DICOM, DICOM_TLS, HTTPS = 4242, 2762, 8443


@dataclass(frozen=True, slots=True)
class Standby:
    """The host, what the inventory says of it, and the play that made it."""

    host: target.Target
    variables: Mapping[str, Any]
    first: target.Played
    handed_over: str
    """The secrets of the first start, as the play left them on the host."""
    login: tuple[str, str]

    def understudy(self, *words: str, code: int = 0) -> str:
        """Run the appliance's command on the host and return all that it printed."""
        script = 'understudy "$@" 2>&1; test $? = ' + str(code)
        return self.host.execute("sh", "-c", script, "sh", *words)


@pytest.fixture(scope="session")
def pacs() -> Iterator[str]:
    """The network of a clinic, with a stock Orthanc as its PACS; its name."""
    network, name = target.network("ansible", "--subnet", SUBNET), f"{TEST_PROJECT}-pacs"
    run(["docker", "rm", "--force", name])
    try:
        begin = ["docker", "run", "--detach", "--name", name, "--network", network, "--ip", PACS]
        run([*begin, "--user", "orthanc", LAB_IMAGE, "Orthanc", "/etc/orthanc"])
        wait_until(
            lambda: clients.echo(PACS, DICOM, calling="STANDBY", called="PRIMARY"),
            lambda status: status == 0,
            deadline=180,
            what="the PACS",
        )
        yield network
    finally:
        run(["docker", "rm", "--force", "--volumes", name])
        target.remove_network(network)


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What the inventory says of a host; this machine alone is let in."""
    us = [f"{GATEWAY}/32"]
    return {
        "appliance_image_file": str(target.image_file(tmp_path_factory.mktemp("image"))),
        "appliance_config": {
            "Site": "ward-seven",
            "AeTitle": "STANDBY",
            "Primary": {"AeTitle": "PRIMARY", "Host": PACS, "Port": DICOM},
            "Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}],
            "Modalities": [
                {"Name": "ct1", "AeTitle": "CT1", "Host": GATEWAY},
                {"Name": "reader", "AeTitle": "READER", "Host": GATEWAY, "Reads": True},
            ],
            # Seconds that suit a test; a clinic keeps the defaults.
            "Policy": {"AcceptStrangers": False, "PrimaryGrace": 1, "QuietPeriod": 1, "ProbeInterval": 2},
        },
        "host_ssh_networks": us,
        "host_dicom_networks": us,
        "host_https_networks": us,
    }


@pytest.fixture(scope="session")
def standby(
    pacs: str, variables: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standby]:
    """A bare host, and the play run against it once."""
    host = target.Target("standby", pacs, tmp_path_factory.mktemp("standby"))
    try:
        host.start("--ip", HOST)
        first = host.play("site.yml", variables).succeeded()
        handed_over = host.execute("cat", target.HANDED_OVER)
        yield Standby(host, variables, first, handed_over, target.shown(handed_over))
    finally:
        host.remove()


@pytest.fixture
def https(standby: Standby) -> Iterator[httpx.Client]:
    """A signed-in client; test_site compares the certificate with the fingerprint that was handed over."""
    address = f"https://{standby.host.address}:{HTTPS}"
    with httpx.Client(base_url=address, auth=standby.login, verify=False, timeout=20) as client:
        yield client
