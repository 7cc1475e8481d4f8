"""`understudy restore`: bring instances back from a vault, without the agent."""

import argparse
import re
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.errors import CommandError, Exit, telling
from understudy.cli.options import Commands, add_command
from understudy.cli.places import AppliancePlaces, places
from understudy.cli.plain import say, tell
from understudy.cli.vaults import open_store, read_identity, trusted, vault_named
from understudy.core.signature import is_writer
from understudy.core.text import counted

if TYPE_CHECKING:
    from understudy.core.ports import ObjectStore, Opener, RestoreTarget
    from understudy.flow.contents import Trust
    from understudy.flow.restore import Catalog, Choice, RestoreResult
    from understudy.system.spool import Spool

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


def moment(text: str) -> float:
    """Return an ISO 8601 time in seconds since 1970, in UTC if it has no zone; raises ValueError."""
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def digest(text: str) -> str:
    """Return a SHA-256 or its beginning in lower case, or raise ValueError."""
    if _DIGEST.fullmatch(text.lower()) is None:
        raise ValueError
    return text.lower()


def writer(text: str) -> str:
    """Return a writer's public key, or raise ValueError."""
    if not is_writer(text):
        raise ValueError
    return text


def add_restore(commands: Commands) -> None:
    """Add the command `restore`."""
    command = add_command(commands, "restore", "bring studies back from a vault, with every digest checked")
    command.add_argument(
        "--vault", required=True, metavar="NAME", help="name of the vault in the configuration"
    )
    command.add_argument(
        "--identity-file",
        required=True,
        metavar="FILE",
        help="the age identity from the safe, or - for standard input",
    )
    command.add_argument("--study", metavar="UID", help="this Study Instance UID; everything if absent")
    command.add_argument(
        "--to", type=Path, metavar="DIR", help="into this folder; into this appliance if absent"
    )
    command.add_argument("--list", action="store_true", help="show what is in the vault and restore nothing")
    command.add_argument(
        "--credentials-file",
        type=Path,
        metavar="FILE",
        help="S3 keys that may read; the appliance's own may only write",
    )
    command.add_argument(
        "--as-of", type=moment, metavar="TIME", help="leave out packs that were stored after this time"
    )
    command.add_argument(
        "--version",
        action="append",
        type=digest,
        default=[],
        metavar="SHA256",
        help="of several contents of an instance, take this one; at least 8 digits, may be repeated",
    )
    command.add_argument(
        "--newest",
        action="store_true",
        help="of several contents of an instance, take the one stored last, if all are signed",
    )
    command.add_argument(
        "--writer",
        action="append",
        type=writer,
        default=[],
        metavar="KEY",
        help="also trust packs signed by this key (the vault writer from the safe); may be repeated",
    )
    command.add_argument(
        "--accept-unsigned", action="store_true", help="also trust packs without a signature"
    )
    command.set_defaults(run=restore)


def restore(arguments: argparse.Namespace) -> int:
    """List a vault, or restore one study or everything; exit code 1 if an instance did not come back."""
    from understudy.adapters.encryption import AgeOpener
    from understudy.core.ports import HolderUnavailableError, SealError
    from understudy.flow.contents import RestoreError
    from understudy.flow.restore import Choice, catalog

    vault = vault_named(arguments.vault)
    with telling(RestoreError, SealError, HolderUnavailableError):
        identity = read_identity(arguments.identity_file)
        opener = AgeOpener(identity)
        store = open_store(vault, arguments.credentials_file)
        trust = trusted(identity, arguments.writer, unsigned=arguments.accept_unsigned, as_of=arguments.as_of)
        if arguments.as_of is not None and not store.retained:
            tell(
                "understudy: for a directory, anybody who can write to it chooses the time that --as-of uses"
            )
        if arguments.list:
            return _list(catalog(store, opener, spool=_spool(places(), None), trust=trust))
        chosen = tuple(arguments.version)
        choice = Choice(lambda member: member.sha256.startswith(chosen), newest=arguments.newest)
        spool = _spool(places(), arguments.to)
        target = _target(places(), arguments.to, spool)
        result = _bring_back(store, opener, target, spool, arguments.study, trust, choice)
    say(
        f"{result.restored} restored, {result.skipped} already there, "
        f"{result.superseded} other contents left out, {result.failures} failed"
    )
    _tell_unsigned(result.unsigned)
    if not result.complete:
        packs = [f"{pack}: it has no manifest, and was not opened" for pack in result.unlisted_packs]
        raise CommandError(
            f"{counted(result.failures, 'image')} not restored, and {counted(len(packs), 'pack')} not opened",
            "run it again, which skips restored instances; age, zstd and tar open a pack without a manifest",
            [*(f"{failure.what}: {failure.reason}" for failure in result.failed), *packs],
        )
    _tell_unlisted(result.unlisted_packs)
    return Exit.OK


def _spool(where: AppliancePlaces, folder: Path | None) -> "Spool":
    """Return the spool for fetched packs, on the volume to which their content is restored."""
    from understudy.system.spool import IN_MEMORY, Spool

    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{folder}: {error.strerror}", "give a folder that can be written") from error
        return Spool(folder, IN_MEMORY)
    return Spool(where.state if where.state.is_dir() else Path(tempfile.gettempdir()), IN_MEMORY)


def _target(where: AppliancePlaces, folder: Path | None, spool: "Spool") -> "RestoreTarget":
    if folder is not None:
        from understudy.adapters.targets import FolderTarget

        return FolderTarget(folder)
    import httpx

    from understudy.adapters.targets import OrthancTarget

    try:
        password = (where.keys / "service" / "agent").read_text(encoding="ascii").strip()
    except OSError as error:
        raise CommandError(
            f"the password for our Orthanc cannot be read: {error.strerror}",
            "run this in the agent's container, or restore into a folder with --to",
        ) from error
    # Orthanc may take a while to write a large series, but a minute of silence is a fault.
    return OrthancTarget(httpx.Client(base_url=where.orthanc, auth=("agent", password), timeout=60), spool)


def _bring_back(
    store: "ObjectStore",
    opener: "Opener",
    target: "RestoreTarget",
    spool: "Spool",
    study: str | None,
    trust: "Trust",
    choice: "Choice",
) -> "RestoreResult":
    from understudy.cli.progress import Bar
    from understudy.cli.words import size
    from understudy.flow.restore import RestoreProgress
    from understudy.flow.restore import restore as bring_back

    started = time.monotonic()
    with Bar("restore", "instances") as bar:

        def show(progress: RestoreProgress) -> None:
            seconds = max(time.monotonic() - started, 1e-3)
            rate = progress.instances_done / seconds
            # By bytes, because the sizes of instances differ by a factor of a thousand.
            speed = progress.bytes_done / seconds
            left = (progress.bytes_total - progress.bytes_done) / speed if speed else None
            text = f"{size(progress.bytes_done)} of {size(progress.bytes_total)}"
            bar.show(progress.instances_done, progress.instances_total, rate, left, text)

        return bring_back(store, opener, target, study, show, spool=spool, trust=trust, choice=choice)


def _list(found: "Catalog") -> int:
    from understudy.cli.screen import Rows, Screen
    from understudy.cli.words import count, size

    table = Rows("Studies", "Study Instance UID", "date", "modality", "patient", ">instances", ">size")
    for study in found.studies:
        table.add_row(
            study.study_instance_uid,
            study.facts.study_date,
            study.facts.modality,
            f"{study.facts.patient_name} {study.facts.patient_id}".strip(),
            count(study.instances),
            size(study.size),
        )
    Screen().print(table)
    _tell_unlisted(found.unlisted_packs)
    _tell_unsigned(found.unsigned)
    if found.failed:
        raise CommandError(
            f"{len(found.failed)} entries of the vault cannot be read or are not trusted",
            "each line says why; age, zstd and tar can open every pack",
            [f"{failure.what}: {failure.reason}" for failure in found.failed],
        )
    return Exit.OK


def _tell_unsigned(number: int) -> None:
    if number:
        tell(
            f"understudy: WARNING: packs without a signature: {number}. Anybody who could write to the vault "
            "may have made them. Packs of earlier versions of Understudy have none either"
        )


def _tell_unlisted(packs: tuple[str, ...]) -> None:
    for pack in packs:
        tell(f"understudy: {pack} has no manifest; age, zstd and tar can open it")
