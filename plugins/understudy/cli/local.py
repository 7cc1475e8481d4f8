"""The commands that need no running agent: keys, configuration, people."""

import argparse
import json
import sys
import time
from pathlib import Path

from understudy.cli.errors import CommandError, Exit, telling
from understudy.cli.places import places
from understudy.config import ConfigurationError, Understudy, load, schema_json
from understudy.core.errors import RefusedError
from understudy.core.model import Timestamp
from understudy.core.views import iso

# Adapters are imported inside the functions: `status` and `health` must start fast, and cryptography alone
# takes longer to load than they take to answer.


def configuration() -> Understudy:
    """Return the appliance's configuration, or raise CommandError with every problem."""
    return _load(places().configuration)


def _load(folder: Path) -> Understudy:
    try:
        return load(folder)
    except ConfigurationError as error:
        count = len(error.problems)
        raise CommandError(
            f"the configuration in {folder} has {count} problem{'s' if count > 1 else ''}",
            error.hint,
            error.problems,
        ) from error


def init(_: argparse.Namespace) -> int:
    """Make the keys volume complete; a second run changes nothing."""
    from understudy.adapters.keys import KeysError, initialise

    where = places()
    loaded = configuration()
    with telling(KeysError):
        initialise(where.keys, where.state, loaded)
    first = where.state / "first-start.json"
    if first.exists():
        print(
            "the keys are ready; fetch the administrator's password once: understudy first-start",
            file=sys.stderr,
        )
    return Exit.OK


def first_start(_: argparse.Namespace) -> int:
    """Print what the first start made, then destroy it."""
    from understudy.adapters.keys import FirstStart, KeysError, show_first_start

    def show(made: FirstStart) -> None:
        print("Shown once: write it down and put it into the safe before you go on.\n")
        for name, value in (
            ("user", made.user),
            ("password", made.password),
            ("SHA-256 of the TLS certificate", made.tls_fingerprint_sha256),
            ("age identity (opens the vaults)", made.vault_identity),
            ("age recipient (public)", made.vault_recipient),
        ):
            if value:
                print(f"{name + ':':<34}{value}")
        # What could not be written out is not shown: the error keeps the file.
        sys.stdout.flush()

    where = places()
    with telling(KeysError):
        shown = show_first_start(where.keys, where.state, show)
    if not shown:
        raise CommandError(
            "the secrets of the first start were shown before and are destroyed",
            "a lost password: `understudy user reset admin`, then restart the edge; a lost age identity "
            "cannot be had back",
        )
    return Exit.OK


def check_config(arguments: argparse.Namespace) -> int:
    """Say that the configuration is in order, or list every problem."""
    folder = arguments.folder or places().configuration
    loaded = _load(folder)
    primary = f"primary {loaded.primary.ae_title}" if loaded.primary else "no primary"
    counts = [
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in (
            (len(loaded.vaults), "vault"),
            (len(loaded.destinations), "destination"),
            (len(loaded.routes), "route"),
        )
    ]
    devices = f"{len(loaded.modalities)} modalit{'y' if len(loaded.modalities) == 1 else 'ies'}"
    print(f"{folder} is in order: site {loaded.site}, {primary}, {', '.join([*counts, devices])}")
    return Exit.OK


def render_orthanc(_: argparse.Namespace) -> int:
    """Print generated.json; it holds the passwords of the services and belongs into a file of mode 0600."""
    json.dump(_rendered(configuration()), sys.stdout, indent=2)
    print()
    return Exit.OK


def _rendered(loaded: Understudy) -> dict[str, object]:
    from understudy.adapters.orthanc_config import render

    try:
        return render(loaded, places().keys)
    except ConfigurationError as error:
        raise CommandError("the services' passwords cannot be read", error.hint, error.problems) from error


def render_edge(arguments: argparse.Namespace) -> int:
    """Print HAProxy's configuration, or write it with the gate's tables into a folder."""
    from understudy.adapters.edge_config import render, write_all

    loaded, where = configuration(), places()
    try:
        if arguments.to is None:
            print(render(loaded, where.keys, where.configuration), end="")
        else:
            write_all(loaded, where.keys, where.configuration, where.edge, arguments.to)
    except ConfigurationError as error:
        raise CommandError("the edge cannot be configured", error.hint, error.problems) from error
    except OSError as error:
        raise CommandError(f"the edge's files cannot be written: {error}", "check the folder") from error
    return Exit.OK


def prepare_orthanc(arguments: argparse.Namespace) -> int:
    """Make Orthanc's index ready and sort what a crash left in its storage; Orthanc has to be stopped.

    All that a start needs in one process: starting Python is most of what it costs.
    """
    from understudy.adapters.boot import prepare
    from understudy.adapters.files import write_durably

    where = places()
    loaded = configuration()
    if arguments.render is not None:
        write_durably(arguments.render, json.dumps(_rendered(loaded), indent=2).encode(), mode=0o600)
    limit = loaded.policy.boot_seconds
    try:
        report = prepare(where.storage, where.index, seconds=limit, now=time.time())
    except OSError as error:
        raise CommandError(
            f"the storage area cannot be prepared: {error}", f"check the volume at {where.storage}"
        ) from error
    print(
        f"boot statistics_in_force={str(report.statistics_in_force).lower()} folders={report.folders} "
        f"left={report.folders_left} recoverable={report.recoverable} quarantined={report.quarantined} "
        f"unreadable={report.unreadable} parked={report.parked} seconds={report.seconds}",
        file=sys.stderr,
    )
    if report.problem:
        raise CommandError(report.problem, "the agent's status shows it until a start goes well")
    return Exit.OK


def quarantine(arguments: argparse.Namespace) -> int:
    """Print every file that was set aside and every instance that is parked, or release one of these."""
    from understudy.adapters.boot import OURS, quarantined
    from understudy.plugin.parking import PARKING, forget, suspects

    storage = places().storage
    folder = storage / OURS / PARKING
    if arguments.release is not None:
        try:
            known = folder.is_dir() and forget(folder, arguments.release)
        except OSError as error:
            raise CommandError(
                f"it cannot be released here: {error}",
                "only the service orthanc may write there: docker compose exec orthanc understudy quarantine "
                "--release UID",
            ) from error
        if not known:
            raise CommandError(
                f"no instance {arguments.release} is parked", "`understudy quarantine` lists those that are"
            )
        print(f"{arguments.release} is released: it is accepted when it is sent again")
        return Exit.OK
    for name, size, reason in quarantined(storage):
        print(f"{name}  {size} bytes: {reason}")
    for suspect in suspects(folder).values():
        if suspect.parked:
            print(
                f"{suspect.sop_instance_uid}  from {suspect.calling_ae_title}: parked, Orthanc ended "
                f"{suspect.ends} times while it was on its way, last before {iso(Timestamp(suspect.last))}"
            )
    return Exit.OK


def config_schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema of the section `Understudy`."""
    print(schema_json())
    return Exit.OK


def user_add(arguments: argparse.Namespace) -> int:
    """Add a person and print the password, which is kept nowhere."""
    from understudy.adapters.keys import KeysError, Role, add_user

    with telling(KeysError, RefusedError):
        password = add_user(places().keys, arguments.name, Role(arguments.role))
    return _show_once(password)


def user_reset(arguments: argparse.Namespace) -> int:
    """Give a person another password and print it, which is kept nowhere."""
    from understudy.adapters.keys import KeysError, reset_password

    with telling(KeysError, RefusedError):
        password = reset_password(places().keys, arguments.name)
    return _show_once(password)


def _show_once(password: str) -> int:
    from understudy.adapters.keys import RELOAD

    print(password)
    print(f"understudy: this password is shown once; {RELOAD}", file=sys.stderr)
    return Exit.OK


def user_remove(arguments: argparse.Namespace) -> int:
    """Remove a person."""
    from understudy.adapters.keys import RELOAD, KeysError, remove_user

    with telling(KeysError, RefusedError):
        remove_user(places().keys, arguments.name)
    print(f"understudy: {arguments.name} is removed; {RELOAD}", file=sys.stderr)
    return Exit.OK


def user_list(_: argparse.Namespace) -> int:
    """Print everybody and the role, never a hash."""
    from understudy.adapters.keys import KeysError, users

    with telling(KeysError):
        for user in users(places().keys):
            print(f"{user.name:<32} {user.role.value}")
    return Exit.OK
