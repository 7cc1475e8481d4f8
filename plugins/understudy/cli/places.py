"""Where the command finds the appliance: the image's folders, unless environment variables name others."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AppliancePlaces:
    """The folders and addresses of one appliance."""

    socket: Path
    configuration: Path
    keys: Path
    state: Path
    storage: Path
    index: Path
    edge: Path
    orthanc: str


def places(environment: Mapping[str, str] = os.environ) -> AppliancePlaces:
    """Return the places; an environment variable can set each of them, for tests and for unusual sites."""

    def path(name: str, default: str) -> Path:
        return Path(environment.get(name) or default)

    return AppliancePlaces(
        socket=path("UNDERSTUDY_SOCKET", "/run/understudy/agent.sock"),
        configuration=path("UNDERSTUDY_CONFIG_FOLDER", "/etc/understudy/config"),
        keys=path("UNDERSTUDY_KEYS", "/var/lib/understudy-keys"),
        state=path("UNDERSTUDY_STATE", "/var/lib/understudy"),
        storage=path("UNDERSTUDY_STORAGE", "/var/lib/orthanc/storage"),
        index=path("UNDERSTUDY_INDEX", "/var/lib/orthanc/index/index"),
        edge=path("UNDERSTUDY_EDGE", "/run/understudy-edge"),
        orthanc=environment.get("UNDERSTUDY_ORTHANC_URL") or "http://orthanc:8042",
    )
