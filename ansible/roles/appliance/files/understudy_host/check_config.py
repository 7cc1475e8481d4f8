"""Checks a configuration with the image's own checker before it is installed."""

import json
import shutil
import tempfile
from pathlib import Path

from understudy_host.compose import run
from understudy_host.places import Places


def check_config(places: Places, image: str, candidate: Path | None = None) -> str:
    """Return the checker's output; raise HostError with every problem.

    `candidate` takes the place of understudy.json; the other files are the installed ones.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in places.configuration.glob("*.json"):
            shutil.copyfile(file, folder / file.name)
        if candidate is not None:
            shutil.copyfile(candidate, folder / "understudy.json")
        if (authority := _client_ca(folder)) is not None and (places.configuration / authority).is_file():
            shutil.copyfile(places.configuration / authority, folder / authority)
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644)
        confined = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"]
        mount = ["--volume", f"{folder}:/etc/understudy/config:ro", "--entrypoint", "understudy"]
        return run(["docker", "run", *confined, *mount, image, "check-config"]).decode().strip()


def _client_ca(folder: Path) -> str | None:
    """Return the name of the file of the devices' authority, the only other file that the checker reads."""
    try:
        section = json.loads((folder / "understudy.json").read_text(encoding="utf-8"))["Understudy"]
        name = str(section["DicomTls"]["ClientCa"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A path could lead to a secret, so only a plain file name is accepted.
    return name if name == Path(name).name else None
