"""Keeps encrypted copies of configuration and keys, from which a new host can become this appliance."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

from understudy_host.compose import run
from understudy_host.places import HostError, Places, image_of, replace_durably
from understudy_host.volumes import read_file

KEPT = 14
_RECIPIENT = re.compile(r"age1[0-9a-z]{58}")


def back_up(places: Places, recipients: Sequence[str] = ()) -> Path:
    """Write a tar archive, encrypted with age, and return its path; the identity from the safe opens it.

    Without recipients it is encrypted for the vault's own. It does not contain the ledger, which can be
    rebuilt.
    """
    readers = list(recipients) or [_vault_recipient(places)]
    folders = [places.configuration, places.secrets, places.project, places.volume("keys")]
    archive = run(
        ["tar", "--create", "--directory", "/", *(str(folder.relative_to("/")) for folder in folders)]
    )
    age = [part for reader in readers for part in ("--recipient", reader)]
    confined = ["--rm", "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    encrypted = run(
        ["docker", "run", *confined, "--entrypoint", "age", image_of(places), *age], stdin=archive
    )
    places.backups.mkdir(parents=True, exist_ok=True)
    path = places.backups / time.strftime("configuration-%Y%m%d-%H%M%S.tar.age")
    aside = path.with_suffix(".part")
    aside.touch(mode=0o600)
    aside.write_bytes(encrypted)
    aside.rename(path)
    for old in sorted(places.backups.glob("configuration-*.tar.age"))[:-KEPT]:
        old.unlink()
    return path


def _vault_recipient(places: Places) -> str:
    """Return the appliance's own recipient. The first backup pins it, because a container writes its file."""
    try:
        told = read_file(places.volume("keys"), "vault-recipient").decode("ascii", "replace").strip()
    except FileNotFoundError:
        raise HostError(
            "the appliance has no recipient of its own: name one in appliance_backup_recipients"
        ) from None
    if _RECIPIENT.fullmatch(told) is None:
        raise HostError("keys/vault-recipient is no age recipient: nothing was backed up")
    pin = places.backup_recipient
    if not pin.exists():
        replace_durably(pin, told + "\n", mode=0o600)
    if pin.read_text(encoding="ascii").strip() != told:
        raise HostError(
            f"keys/vault-recipient was changed since the first backup, so that another could read this one: "
            f"nothing was backed up. If you changed it, remove {pin}"
        )
    return told
