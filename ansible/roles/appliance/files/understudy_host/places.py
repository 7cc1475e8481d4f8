"""Where the host keeps what belongs to the appliance; the play makes these folders."""

import os
from dataclasses import dataclass
from pathlib import Path


class HostError(Exception):
    """Something on the host failed or was refused; the message says what, why and what to do."""


class RefusedError(HostError):
    """It was refused; nothing changed."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one host."""

    project: Path = Path("/opt/understudy")
    """compose.yml, compose.override.yml, compose.without-vault.yml and .env."""
    configuration: Path = Path("/etc/understudy/config")
    secrets: Path = Path("/etc/understudy/secrets")
    data: Path = Path("/srv/understudy")
    """One folder a volume, each with a folder `data`: where a disk is not mounted that is missing, so that
    nothing is ever written beside the disk."""
    backups: Path = Path("/srv/understudy/backup")
    textfiles: Path = Path("/var/lib/prometheus/node-exporter")
    handed_over: Path = Path("/root/understudy")
    """Secrets that a person is to take away, each a file that root alone may read."""

    def volume(self, name: str) -> Path:
        """Return the folder that a volume of the compose project lies in."""
        return self.data / name / "data"

    @property
    def environment(self) -> Path:
        """The file that compose reads its variables from."""
        return self.project / ".env"

    @property
    def journal(self) -> Path:
        """The record of an update that is under way."""
        return self.project / "update.json"

    @property
    def last_mode(self) -> Path:
        """The mode that the agent told last."""
        return self.project / "mode"

    @property
    def decommissioned(self) -> Path:
        """What was seen before the services were removed; gone once they start again."""
        return self.project / "decommissioned.json"

    @property
    def host_alarms(self) -> Path:
        """Where the agent looks for what the host has to say: root's own, which no container may write to."""
        return self.data / "host"

    @property
    def agent_socket(self) -> Path:
        """Where the agent listens."""
        return self.volume("sockets") / "agent.sock"

    @property
    def new_key(self) -> Path:
        """The key whose certificate was asked for; root's own until that is there."""
        return self.project / "https.key.new"

    @property
    def backup_recipient(self) -> Path:
        """For whom the first backup was encrypted, where the appliance's own recipient counts."""
        return self.project / "backup-recipient"


def image_of(places: Places) -> str:
    """Return the image that the appliance runs."""
    for line in places.environment.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "UNDERSTUDY_IMAGE":
            return value
    raise HostError(f"{places.environment} names no UNDERSTUDY_IMAGE: run the play again")


def set_image(places: Places, image: str) -> None:
    """Name the image that the appliance is to run from the next start on."""
    lines = places.environment.read_text(encoding="utf-8").splitlines()
    changed = [
        f"UNDERSTUDY_IMAGE={image}" if line.startswith("UNDERSTUDY_IMAGE=") else line for line in lines
    ]
    replace_durably(places.environment, "\n".join(changed) + "\n", mode=0o640)


def replace_durably(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in a folder of root's own so that a power cut leaves the old content or the new.

    A file in a volume is written by volumes.py alone.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(aside, mode)
    aside.replace(path)
    _sync_folder(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, so that no power cut brings it back."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
