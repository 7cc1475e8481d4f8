"""The appliance's folders and files on the host; the play makes the folders."""

import os
from dataclasses import dataclass
from pathlib import Path


class HostError(Exception):
    """Something on the host failed or was refused; the message says what, why and what to do."""


class RefusedError(HostError):
    """The act was refused; nothing changed."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one host."""

    project: Path = Path("/opt/understudy")
    """compose.yml, compose.override.yml, compose.without-vault.yml and .env."""
    configuration: Path = Path("/etc/understudy/config")
    secrets: Path = Path("/etc/understudy/secrets")
    data: Path = Path("/srv/understudy")
    """One folder for each volume, with a folder `data` inside. If the volume's disk is not mounted, `data`
    is missing, so nothing is ever written beside the disk."""
    backups: Path = Path("/srv/understudy/backup")
    textfiles: Path = Path("/var/lib/prometheus/node-exporter")
    handed_over: Path = Path("/root/understudy")
    """Secrets that a person has to take away; each is a file that only root can read."""

    def volume(self, name: str) -> Path:
        """Return the folder of a volume of the compose project."""
        return self.data / name / "data"

    @property
    def environment(self) -> Path:
        """The file of compose's variables."""
        return self.project / ".env"

    @property
    def journal(self) -> Path:
        """The record of an update that is under way."""
        return self.project / "update.json"

    @property
    def last_mode(self) -> Path:
        """The file of the agent's last known mode."""
        return self.project / "mode"

    @property
    def decommissioned(self) -> Path:
        """The reasons against erasing, recorded before the services were removed; a start removes it."""
        return self.project / "decommissioned.json"

    @property
    def host_alarms(self) -> Path:
        """The folder in which the agent reads the host's alarms. Only root can write there, no container."""
        return self.data / "host"

    @property
    def agent_socket(self) -> Path:
        """The agent's own socket."""
        return self.volume("sockets") / "agent.sock"

    @property
    def new_key(self) -> Path:
        """The key of a requested certificate; only root can read it until the certificate is installed."""
        return self.project / "https.key.new"

    @property
    def backup_recipient(self) -> Path:
        """The appliance's own recipient, as pinned with the first backup that was encrypted for it."""
        return self.project / "backup-recipient"


def image_of(places: Places) -> str:
    """Return the image that the appliance runs."""
    for line in places.environment.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "UNDERSTUDY_IMAGE":
            return value
    raise HostError(f"{places.environment} names no UNDERSTUDY_IMAGE: run the play again")


def set_image(places: Places, image: str) -> None:
    """Set the image that the appliance runs from the next start on."""
    lines = places.environment.read_text(encoding="utf-8").splitlines()
    changed = [
        f"UNDERSTUDY_IMAGE={image}" if line.startswith("UNDERSTUDY_IMAGE=") else line for line in lines
    ]
    replace_durably(places.environment, "\n".join(changed) + "\n", mode=0o640)


def replace_durably(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in a folder of root so that a power cut leaves the old content or the new.

    Only volumes.py writes files in a volume.
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
