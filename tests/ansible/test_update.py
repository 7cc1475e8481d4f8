"""Update: a newer image serves soon, a broken one is rolled back by itself, nothing happens while active."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from tests.ansible import clients
from tests.ansible.conftest import DICOM, Standby
from tests.ansible.target import Played
from tests.ansible.test_takeover import settle
from tests.stack import wait_until

pytestmark = [pytest.mark.longer, pytest.mark.needs("image", "lab-image", "target-image", "ssh")]

SERVES_WITHIN = 60.0


def commit(standby: Standby, change: str) -> str:
    """Make another image on the host, and return its ID."""
    script = (
        'container=$(docker create "$(sed -n s/^UNDERSTUDY_IMAGE=//p /opt/understudy/.env)")\n'
        'docker commit --change "$1" "$container"\n'
        'docker rm "$container" > /dev/null'
    )
    return standby.host.execute("sh", "-euc", script, "sh", change).strip()


def image(standby: Standby) -> str:
    return standby.host.execute("sed", "-n", "s/^UNDERSTUDY_IMAGE=//p", "/opt/understudy/.env").strip()


def update(standby: Standby, wanted: str) -> Played:
    return standby.host.play(
        "update.yml", {**standby.variables, "appliance_image_file": "", "appliance_image": wanted}
    )


@dataclass(slots=True)
class Watch:
    """Asks by C-ECHO again and again, and remembers when it was answered."""

    host: str
    answered: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._ask, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(0.25):
            if clients.echo(self.host, DICOM, calling="CT1") == 0:
                self.answered.append(time.monotonic())

    @property
    def longest_silence(self) -> float:
        return max(later - earlier for earlier, later in zip(self.answered, self.answered[1:], strict=False))


@pytest.fixture
def known(standby: Standby, https: httpx.Client) -> Iterator[int]:
    """How many instances the ledger knows; as many afterwards."""
    before = https.get("/understudy/status").json()["instances"]
    yield before
    assert https.get("/understudy/status").json()["instances"] == before


def test_newer_image_serves_within_a_minute(standby: Standby, known: int) -> None:
    newer = commit(standby, "LABEL test.understudy=newer")
    with Watch(standby.host.address) as watch:
        done = update(standby, newer).succeeded()
    print(f"update: nobody was served for {watch.longest_silence:.1f} s")
    assert image(standby) == f"understudy:{newer.removeprefix('sha256:')[:12]}"
    assert watch.longest_silence < SERVES_WITHIN
    assert "updated: " in done.said
    kept = standby.host.execute("sh", "-c", "ls /srv/understudy/backup/update-*")
    assert "index" in kept
    assert "state" in kept


@pytest.mark.parametrize("change", ['ENTRYPOINT ["false"]', 'ENTRYPOINT ["sh", "-c", "sleep infinity"]'])
def test_broken_image_is_rolled_back_by_itself(standby: Standby, known: int, change: str) -> None:
    before = image(standby)
    done = update(standby, commit(standby, change))
    assert done.code == 2
    assert f"rolled back to {before}" in " ".join(done.said.split())
    assert image(standby) == before
    assert clients.echo(standby.host.address, DICOM, calling="CT1") == 0


def test_update_that_is_killed_in_the_middle_is_rolled_back_by_itself(standby: Standby, known: int) -> None:
    before, newer = image(standby), commit(standby, "LABEL test.understudy=killed")
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(update, standby, newer)
        wait_until(
            lambda: standby.host.execute("sh", "-c", "cat /opt/understudy/update.json || true"),
            lambda said: '"copied": true' in said,
            deadline=120,
            what="the middle of the update",
            pause=0.1,
        )
        standby.host.execute("systemctl", "kill", "--signal=KILL", "understudy-update.service")
        assert playing.result().code == 2
    wait_until(
        lambda: clients.echo(standby.host.address, DICOM, calling="CT1"),
        lambda status: status == 0,
        deadline=180,
        what="C-ECHO after the rollback",
    )
    # Intake is back before the agent is.
    wait_until(
        lambda: standby.host.execute("understudy-host", "may-maintain"),
        lambda said: said == "the appliance is standby\n",
        deadline=120,
        what="the agent after the rollback",
    )
    assert image(standby) == before
    assert "update.json" not in standby.host.execute("ls", "/opt/understudy")


def test_update_is_refused_while_active_and_while_returning(standby: Standby) -> None:
    before, newer = image(standby), commit(standby, "LABEL test.understudy=newest")
    standby.understudy("promote", "--force", "--accept-loss", "--reason", "test of the update")
    for mode in ("active", "returning"):
        done = update(standby, newer)
        assert done.code == 2
        assert f"the appliance is {mode}" in done.said
        assert standby.host.execute("sh", "-c", "understudy-host may-maintain 2>&1; echo $?").endswith("3\n")
        if mode == "active":
            site = standby.host.play("site.yml", {**standby.variables, "appliance_orthanc_memory": "3g"})
            assert site.code == 2
            assert "site_while_active=true" in " ".join(site.said.split())
            assert site.changed == {"standby": 0}, site.changed_tasks
            standby.understudy("failback", "--wait")
    settle(standby)
    assert image(standby) == before
    assert standby.host.execute("understudy-host", "may-maintain") == "the appliance is standby\n"
