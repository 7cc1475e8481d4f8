"""The commands that need no running agent: keys, configuration, people."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.adapters.in_force import HINT, KEPT, WRONG, InForce, choose, present
from understudy.cli.errors import CommandError, Exit, telling
from understudy.cli.places import places
from understudy.cli.plain import say, say_file, say_json, tell
from understudy.config import ConfigurationError, Understudy, schema_json
from understudy.core.errors import RefusedError
from understudy.core.model import Timestamp
from understudy.core.signature import fingerprint
from understudy.core.views import iso

# Adapters are imported inside the functions: `status` and `health` must start fast, and cryptography alone
# takes longer to load than they take to answer.


def configuration() -> Understudy:
    """Return the configuration that the appliance uses, or raise CommandError with every problem."""
    return in_force().configuration


def in_force() -> InForce:
    """Return the configuration that a start uses: the present one, or the last correct one with an alarm.

    Raises CommandError with every problem if there is neither.
    """
    where = places()
    with _problems(where.configuration):
        runs = choose(where.configuration, where.keys / KEPT)
    if runs.problems:
        for line in (f"ALARM: {WRONG}", *runs.problems, f"hint: {HINT}"):
            tell(f"understudy: {line}")
    return runs


@contextmanager
def _problems(folder: Path) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        count = len(error.problems)
        raise CommandError(
            f"the configuration in {folder} has {count} problem{'s' if count > 1 else ''}",
            error.hint,
            error.problems,
        ) from error


def init(_: argparse.Namespace) -> int:
    """Create the missing keys and copy them to the other services; a second run changes nothing."""
    from understudy.adapters.edge_config import open_shared
    from understudy.adapters.keys import KeysError, initialise

    where = places()
    loaded = configuration()
    # Done before the edge gets its keys, because the edge waits for them and then starts.
    open_shared(where.edge)
    with telling(KeysError):
        initialise(where.keys, where.state, loaded)
    first = where.state / "first-start.json"
    if first.exists():
        tell("the keys are ready; fetch the administrator's password once: understudy first-start")
    return Exit.OK


def first_start(_: argparse.Namespace) -> int:
    """Print the secrets that the first start made, then destroy them."""
    from understudy.adapters.keys import FirstStart, KeysError, show_first_start

    def show(made: FirstStart) -> None:
        say("Shown once: write it down and put it into the safe before you go on.")
        say()
        for name, value in (
            ("user", made.user),
            ("password", made.password),
            ("SHA-256 of the TLS certificate", made.tls_fingerprint_sha256),
            ("age identity (opens the vaults)", made.vault_identity),
            ("age recipient (public)", made.vault_recipient),
            (
                "fingerprint of that recipient",
                fingerprint([made.vault_recipient]) if made.vault_recipient else "",
            ),
            ("vault writer (public)", made.vault_writer),
        ):
            if value:
                say(f"{name + ':':<34}{value}")
        if made.vault_identity:
            say()
            say("identity.txt for the safe, both lines; restore trusts packs that this writer signed:")
            say(f"# vault writer: {made.vault_writer}")
            say(made.vault_identity)
        # If the output cannot be written, the error keeps the file of secrets.
        sys.stdout.flush()

    where = places()
    with telling(KeysError):
        shown = show_first_start(where.keys, where.state, show)
    if not shown:
        raise CommandError(
            "the secrets of the first start were shown before and are destroyed",
            "a lost password: `understudy user reset admin`; a lost age identity cannot be recovered",
        )
    return Exit.OK


def vault_writer(_: argparse.Namespace) -> int:
    """Print the public keys of this appliance's signatures on packs, in the form of identity.txt."""
    from understudy.adapters.writer import known_writers

    writers = sorted(known_writers(places().keys))
    if not writers:
        raise CommandError("there is no vault writer yet", "run `understudy init` first")
    for writer in writers:
        say(f"# vault writer: {writer}")
    return Exit.OK


def check_config(arguments: argparse.Namespace) -> int:
    """Say that the configuration is in order, or list every problem."""
    folder = arguments.folder or places().configuration
    with _problems(folder):
        loaded = present(folder).configuration
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
    say(f"{folder} is in order: site {loaded.site}, {primary}, {', '.join([*counts, devices])}")
    return Exit.OK


def render_orthanc(_: argparse.Namespace) -> int:
    """Print generated.json. It has the passwords of the services and belongs in a file of mode 0600."""
    say_json(json.dumps(_rendered(configuration()), indent=2))
    return Exit.OK


def _rendered(loaded: Understudy) -> dict[str, object]:
    from understudy.adapters.orthanc_config import render
    from understudy.plugin.memory import own_limit

    try:
        return render(loaded, places().keys, own_limit())
    except ConfigurationError as error:
        raise CommandError("the services' passwords cannot be read", error.hint, error.problems) from error


def render_edge(arguments: argparse.Namespace) -> int:
    """Print HAProxy's configuration, or write it to a folder together with the gate's tables."""
    from understudy.adapters.edge_config import render, write_all

    runs, where = in_force(), places()
    try:
        if arguments.to is None:
            say_file(render(runs.configuration, where.keys))
        else:
            write_all(runs, where.keys, where.edge, arguments.to)
    except ConfigurationError as error:
        raise CommandError("the edge cannot be configured", error.hint, error.problems) from error
    except OSError as error:
        raise CommandError(f"the edge's files cannot be written: {error}", "check the folder") from error
    return Exit.OK


def prepare_orthanc(arguments: argparse.Namespace) -> int:
    """Prepare Orthanc's index, and sort the files that a crash left in its storage.

    Orthanc has to be stopped. One process does all that a start needs, because starting Python takes most of
    the time.
    """
    from understudy.adapters.boot import prepare
    from understudy.adapters.orthanc_config import RECEPTION, render_reception
    from understudy.plugin.memory import own_limit
    from understudy.system.files import write_durably

    where = places()
    runs = in_force()
    loaded = runs.configuration
    if arguments.render is not None:
        for name, text in runs.files.items():
            write_durably(arguments.render.with_name(name), text.encode(), mode=0o600)
        limits = render_reception(loaded, own_limit())
        write_durably(arguments.render.with_name(RECEPTION), limits.encode(), mode=0o600)
        write_durably(arguments.render, json.dumps(_rendered(loaded), indent=2).encode(), mode=0o600)
    limit = loaded.policy.boot_seconds
    try:
        report = prepare(
            where.storage, where.index, seconds=limit, now=time.time(), configuration=runs.digest
        )
    except OSError as error:
        raise CommandError(
            f"the storage area cannot be prepared: {error}", f"check the volume at {where.storage}"
        ) from error
    tell(
        f"boot statistics_in_force={str(report.statistics_in_force).lower()} folders={report.folders} "
        f"left={report.folders_left} recoverable={report.recoverable} quarantined={report.quarantined} "
        f"unreadable={report.unreadable} parked={report.parked} seconds={report.seconds}"
    )
    if report.problem:
        raise CommandError(report.problem, "the agent's status shows it until a start succeeds")
    return Exit.OK


def quarantine(arguments: argparse.Namespace) -> int:
    """Print every quarantined file and every parked instance, or release a parked instance."""
    from understudy.adapters.boot import OURS, quarantined
    from understudy.plugin.parking import DECODE, PARKING, forget, suspects

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
        say(f"{arguments.release} is released: it is accepted when it is sent again")
        return Exit.OK
    for name, size, reason in quarantined(storage):
        say(f"{name}  {size} bytes: {reason}")
    for suspect in suspects(folder).values():
        if suspect.parked:
            work = "decoded" if suspect.sop_instance_uid.startswith(DECODE) else "on its way"
            say(
                f"{suspect.sop_instance_uid.removeprefix(DECODE)}  from {suspect.calling_ae_title}: parked, "
                f"Orthanc ended {suspect.ends} times while it was {work}, last "
                f"before {iso(Timestamp(suspect.last))}"
            )
    return Exit.OK


def config_schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema of the section `Understudy`."""
    say_json(schema_json())
    return Exit.OK


def user_add(arguments: argparse.Namespace) -> int:
    """Add a person and print the password, which is not stored."""
    from understudy.adapters.keys import KeysError, add_user
    from understudy.core.roles import ROLES_OF_PEOPLE

    with telling(KeysError, RefusedError):
        password = add_user(places().keys, arguments.name, ROLES_OF_PEOPLE[arguments.role])
    return _show_once(password)


def user_reset(arguments: argparse.Namespace) -> int:
    """Give a person a new password and print it; it is not stored."""
    from understudy.adapters.keys import KeysError, reset_password

    with telling(KeysError, RefusedError):
        password = reset_password(places().keys, arguments.name)
    return _show_once(password)


def _show_once(password: str) -> int:
    from understudy.adapters.keys import IN_FORCE

    say(password)
    tell(f"understudy: this password is shown once; {IN_FORCE}")
    return Exit.OK


def user_remove(arguments: argparse.Namespace) -> int:
    """Remove a person."""
    from understudy.adapters.keys import IN_FORCE, KeysError, remove_user

    with telling(KeysError, RefusedError):
        remove_user(places().keys, arguments.name)
    tell(f"understudy: {arguments.name} is removed; {IN_FORCE}")
    return Exit.OK


def user_list(_: argparse.Namespace) -> int:
    """Print each person and role, never a hash."""
    from understudy.adapters.keys import KeysError, users

    with telling(KeysError):
        for user in users(places().keys):
            say(f"{user.name:<32} {user.role.word}")
    return Exit.OK


def certificate_revoke(arguments: argparse.Namespace) -> int:
    """Refuse new associations with this certificate."""
    from understudy.adapters.keys import IN_FORCE, revoke_certificate

    with telling(RefusedError):
        revoke_certificate(places().keys, arguments.fingerprint)
    tell(f"understudy: the certificate is revoked; {IN_FORCE}; running associations continue to their end")
    return Exit.OK


def certificate_allow(arguments: argparse.Namespace) -> int:
    """Undo a revocation."""
    from understudy.adapters.keys import IN_FORCE, allow_certificate

    with telling(RefusedError):
        allow_certificate(places().keys, arguments.fingerprint)
    tell(f"understudy: the certificate is accepted again; {IN_FORCE}")
    return Exit.OK


def certificate_list(_: argparse.Namespace) -> int:
    """Print the fingerprints of revoked certificates."""
    from understudy.adapters.keys import revoked_certificates

    for revoked in revoked_certificates(places().keys):
        say(revoked)
    return Exit.OK
