"""Hands over the first start's secrets in a file that only root can read, never in the log of a play."""

import json

from understudy_host.compose import run
from understudy_host.places import HostError, Places, replace_durably
from understudy_host.volumes import exists, read_file

_SOURCE = "first-start.json"


def hand_over_first_start(places: Places) -> str:
    """Write the secrets to a file and destroy them in the volume; return its path, or "" if there are none.

    The file is durable before they are destroyed, so a broken connection loses none.
    """
    state = places.volume("state")
    if not exists(state, _SOURCE):
        return ""
    try:
        made = json.loads(read_file(state, _SOURCE))
        identity = made.pop("vault_identity", "")
        lines = [f"{name}: {value}" for name, value in made.items() if value]
    except (ValueError, AttributeError):
        # The parser's message could quote a secret.
        raise HostError(f"{state / _SOURCE} is not what the first start writes") from None
    if identity:
        lines += ["", "identity.txt for the safe, both lines:"]
        lines += [f"# vault writer: {made.get('vault_writer', '')}", identity]
    places.handed_over.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = places.handed_over / "first-start.txt"
    replace_durably(target, "\n".join(lines) + "\n", mode=0o600)
    command = ["exec", "--no-TTY", "agent", "understudy", "first-start"]
    run(["docker", "compose", "--project-directory", str(places.project), *command])
    return str(target)
