"""Root on the host follows nothing that a container has made: no victim is read or changed."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from understudy_host import backup, certificate, handover, metrics, update, volumes
from understudy_host.compose import run
from understudy_host.places import HostError, Places, RefusedError, replace_durably

OWNER = 10001
SECRET = b"the host's own"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts on another's volume")


@dataclass
class Host:
    """A host with volumes of the containers' user, and files of root's own that nobody else may reach."""

    places: Places
    victim: Path
    folder: Path

    @property
    def keys(self) -> Path:
        return self.places.volume("keys")

    def unchanged(self) -> bool:
        """Say whether the victims are as they were, and nothing was put beside them."""
        seen = self.victim.stat()
        return (
            self.victim.read_bytes() == SECRET
            and (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (0, 0o600)
            and [path.name for path in self.folder.iterdir()] == [self.victim.name]
            and (self.folder.stat().st_uid, stat.S_IMODE(self.folder.stat().st_mode)) == (0, 0o700)
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    places = Places(
        project=tmp_path / "project",
        configuration=tmp_path / "config",
        data=tmp_path / "data",
        backups=tmp_path / "backup",
        textfiles=tmp_path / "textfiles",
        handed_over=tmp_path / "handed-over",
    )
    for folder in (places.project, places.configuration, places.backups, places.textfiles):
        folder.mkdir()
    for name in ("keys", "state", "sockets", "index"):
        places.volume(name).mkdir(parents=True)
        os.chown(places.volume(name), OWNER, OWNER)
    tls = places.volume("keys") / "tls"
    tls.mkdir()
    os.chown(tls, OWNER, OWNER)
    places.environment.write_text("UNDERSTUDY_IMAGE=old\n")
    victims = tmp_path / "root"
    victims.mkdir(mode=0o700)
    (victims / "victim").write_bytes(SECRET)
    (victims / "victim").chmod(0o600)
    return Host(places, victims / "victim", victims)


def to_file(path: Path, host: Host) -> None:
    path.symlink_to(host.victim)


def to_nothing(path: Path, host: Host) -> None:
    path.symlink_to(host.folder / "made-by-root")


def to_folder(path: Path, host: Host) -> None:
    path.symlink_to(host.folder)


def hard_link(path: Path, host: Host) -> None:
    path.hardlink_to(host.victim)


def pipe(path: Path, host: Host) -> None:
    os.mkfifo(path)


def folder(path: Path, host: Host) -> None:
    path.mkdir()


Plant = Callable[[Path, Host], None]
PLANTS = [to_file, to_nothing, to_folder, hard_link, pipe, folder]


def planted(plant: Plant, host: Host, name: str) -> None:
    """Put something in the place of a name of the volume `keys`, as the container's user could."""
    path = host.keys / name
    if path.is_dir():
        path.rmdir()
    plant(path, host)


def put_back(host: Host) -> None:
    copy = host.places.backups / "update"
    copy.mkdir()
    for name in update.COPIED:
        (copy / name).mkdir()
    (copy / update.ANCHOR).write_bytes(b"1 abc\n")
    update._put_back(host.places, copy)


def copied(host: Host) -> None:
    update._copy(host.places, host.places.backups / "update")


def holds(host: Host) -> None:
    certificate.holds(host.places, "authority", days=1, names=["standby"])


def asked_and_installed(host: Host) -> None:
    certificate.request(host.places, ["standby"])
    signed = host.places.project / "signed.pem"
    key = str(host.places.new_key)
    run(["openssl", "req", "-x509", "-key", key, "-subj", "/CN=standby", "-out", str(signed), "-days", "9"])
    certificate.install(host.places, signed.read_text())


READERS: list[tuple[str, Callable[[Host], object]]] = [
    ("tls/https.pem", holds),
    ("tls/https.pem", lambda host: metrics.certificate_end(host.places)),
    ("tls/https.pem", lambda host: certificate.place(host.places, "given")),
    ("vault-recipient", lambda host: backup._vault_recipient(host.places)),
    (update.ANCHOR, copied),
]
WRITERS: list[tuple[str, Callable[[Host], object]]] = [
    ("tls/https.pem", asked_and_installed),
    (update.ANCHOR, put_back),
    (update.ANCHOR, lambda host: volumes.remove_file(host.keys, update.ANCHOR)),
]


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize(("name", "act"), READERS, ids=["holds", "metrics", "place", "backup", "copy"])
def test_what_a_container_planted_is_not_read_and_the_refusal_names_it(
    host: Host, plant: Plant, name: str, act: Callable[[Host], object]
) -> None:
    planted(plant, host, name)
    with pytest.raises(HostError) as caught:
        act(host)
    assert name.rpartition("/")[2] in str(caught.value)
    assert SECRET.decode() not in str(caught.value)
    assert host.unchanged()


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize(("name", "act"), WRITERS, ids=["install", "put back", "remove"])
def test_what_a_container_planted_is_replaced_itself_or_refused_by_name(
    host: Host, plant: Plant, name: str, act: Callable[[Host], object]
) -> None:
    planted(plant, host, name)
    if plant is folder:
        with pytest.raises(RefusedError, match="a folder is in its place"):
            act(host)
    else:
        act(host)
        path = host.keys / name
        if os.path.lexists(path):
            seen = path.stat(follow_symlinks=False)
            assert stat.S_ISREG(seen.st_mode)
            assert (seen.st_uid, seen.st_gid) == (OWNER, OWNER)
    assert host.unchanged()


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
def test_update_copies_and_puts_back_what_a_container_planted_without_following_it(
    host: Host, plant: Plant
) -> None:
    for name in update.COPIED:
        plant(host.places.volume(name) / "planted", host)
        (host.places.volume(name) / "own").write_bytes(b"own")
    copied(host)
    update._put_back(host.places, host.places.backups / "update")
    for name in update.COPIED:
        assert (host.places.volume(name) / "own").read_bytes() == b"own"
        assert os.path.lexists(host.places.volume(name) / "planted")
    assert host.unchanged()


@needs_root
@pytest.mark.parametrize("plant", [to_file, to_nothing, to_folder, hard_link, pipe])
@pytest.mark.parametrize(
    "act",
    [holds, lambda host: metrics.certificate_end(host.places), asked_and_installed],
    ids=["holds", "metrics", "install"],
)
def test_folder_that_a_container_replaced_is_entered_by_nobody(
    host: Host, plant: Plant, act: Callable[[Host], object]
) -> None:
    planted(plant, host, "tls")
    with pytest.raises(HostError, match="tls"):
        act(host)
    assert host.unchanged()


@needs_root
@pytest.mark.parametrize("plant", [to_file, to_folder, hard_link, pipe, folder])
def test_first_start_is_handed_over_from_a_plain_file_alone(
    host: Host, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "run", lambda command: pytest.fail("nothing is destroyed"))
    plant(host.places.volume("state") / "first-start.json", host)
    with pytest.raises(HostError, match=r"first-start\.json"):
        handover.hand_over_first_start(host.places)
    assert not host.places.handed_over.exists()
    assert host.unchanged()


@needs_root
def test_first_start_is_on_the_disk_for_root_alone_before_it_is_destroyed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = host.places.volume("state")
    secrets = (
        '{"user": "admin", "password": "pw", "vault_identity": "AGE-SECRET-KEY-1X", "vault_writer": "w"}'
    )
    (state / "first-start.json").write_text(secrets)
    os.chown(state / "first-start.json", OWNER, OWNER)
    target = host.places.handed_over / "first-start.txt"

    def destroy(command: list[str]) -> bytes:
        assert command[-2:] == ["understudy", "first-start"]
        assert "password: pw" in target.read_text()
        assert "# vault writer: w\nAGE-SECRET-KEY-1X\n" in target.read_text()
        (state / "first-start.json").unlink()
        return b""

    monkeypatch.setattr(handover, "run", destroy)
    assert handover.hand_over_first_start(host.places) == str(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert handover.hand_over_first_start(host.places) == ""


@needs_root
def test_key_of_a_new_certificate_lies_where_no_container_reaches_it(host: Host) -> None:
    certificate.request(host.places, ["standby"])
    assert list((host.keys / "tls").iterdir()) == []
    assert stat.S_IMODE(host.places.new_key.stat().st_mode) == 0o600
    asked_and_installed(host)
    assert not host.places.new_key.exists()


@needs_root
def test_backup_is_encrypted_for_whom_the_first_was(host: Host) -> None:
    recipients = ["age1" + "q" * 58, "age1" + "p" * 58]
    for recipient, refused in zip([*recipients, recipients[0]], (False, True, False), strict=True):
        (host.keys / "vault-recipient").write_text(recipient)
        if refused:
            with pytest.raises(HostError, match="was changed since the first backup"):
                backup._vault_recipient(host.places)
        else:
            assert backup._vault_recipient(host.places) == recipient
    (host.keys / "vault-recipient").write_text("--output=/etc/passwd")
    with pytest.raises(HostError, match="no age recipient"):
        backup._vault_recipient(host.places)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket of the host's own, which no container may be the way to."""
    path = tmp_path / "own.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_accept, args=(server,), daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_agents_socket_is_connected_to_and_a_link_to_another_is_not(tmp_path: Path, listening: Path) -> None:
    volume = tmp_path / "sockets"
    volume.mkdir()
    (volume / "linked.sock").symlink_to(listening)
    (volume / "plain").touch()
    (volume / "agent.sock").hardlink_to(listening)
    with socket.socket(socket.AF_UNIX) as client:
        volumes.connect(client, volume, "agent.sock")
    for name in ("linked.sock", "plain"):
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(RefusedError, match="no socket"):
            volumes.connect(client, volume, name)


def test_replace_durably_follows_no_link_that_lies_in_wait(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    (tmp_path / ".file.new").symlink_to(victim)
    replace_durably(tmp_path / "file", "new", mode=0o640)
    assert (victim.read_bytes(), (tmp_path / "file").read_text()) == (SECRET, "new")


def test_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    with pytest.raises(RefusedError, match="bytes"):
        volumes.read_file(tmp_path, "large")


def test_no_play_touches_a_volume_by_a_module_that_follows_links() -> None:
    """The modules run as root, and follow a link in any folder of their path."""
    plays = Path(__file__).parents[2] / "ansible"
    found = [
        f"{path.name}: {line.strip()}"
        for path in [*plays.glob("*.yml"), *plays.glob("roles/*/tasks/*.yml")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if "/data/" in line or "appliance_certificate |" in line
    ]
    assert found == []
