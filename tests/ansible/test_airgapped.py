"""Air-gapped: image and packages come as files, and the host has no way out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.ansible import clients, target
from tests.ansible.conftest import DICOM, Standby
from tests.stack import StackError

pytestmark = [pytest.mark.longer, pytest.mark.needs("image", "lab-image", "target-image", "ssh")]

LISTS = ("/var/lib/apt/lists", "/var/lib/apt/periodic/update-success-stamp")
SUBNET, GATEWAY, HOST = "172.31.252.0/24", "172.31.252.1", "172.31.252.20"


@pytest.fixture(scope="module")
def bundle(standby: Standby, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, collected on a host that has a way out."""
    path = tmp_path_factory.mktemp("bundle") / "packages.tar"
    inventory = standby.host.inventory(standby.variables)
    text = inventory.read_text(encoding="utf-8").replace('"standbys"', '"bundlers"')
    other = inventory.with_name("bundlers.json")
    other.write_text(text, encoding="utf-8")
    target.played("bundle.yml", other, "--extra-vars", f"bundle_to={path}").succeeded()
    return path


def test_play_passes_without_a_way_out(
    bundle: Path, variables: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = target.network("airgapped", "--internal", "--subnet", SUBNET)
    host = target.Target("airgapped", network, tmp_path_factory.mktemp("airgapped"))
    us = [f"{GATEWAY}/32"]
    section = {
        key: value
        for key, value in variables["appliance_config"].items()
        if key not in ("Primary", "Modalities")
    }
    mine = {
        **variables,
        "appliance_config": {**section, "Policy": {}},
        "host_package_bundle": str(bundle),
        **dict.fromkeys(("host_ssh_networks", "host_dicom_networks", "host_https_networks"), us),
    }
    try:
        host.start("--ip", HOST)
        # Some Engines name a gateway on a network without a way out.
        host.execute("sh", "-c", "ip route delete default || true")
        with pytest.raises(StackError):
            host.execute("apt-get", "install", "--yes", "chrony")
        assert host.execute("ip", "route", "show", "default") == ""
        host.play("site.yml", mine).succeeded()
        assert clients.echo(HOST, DICOM, calling="ANYONE") == 0
        # A day later: package lists that are old, and nobody to ask for new ones.
        host.execute("touch", "--date=yesterday", *LISTS)
        again = host.play("site.yml", mine).succeeded()
        assert again.changed == {"standby": 0}, again.changed_tasks
    finally:
        host.remove()
        target.remove_network(network)
