"""`understudy restore`: brings studies back out of a vault, without the agent."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from understudy.cli.client import Client
from understudy.cli.errors import CommandError, Exit, telling
from understudy.cli.local import configuration
from understudy.cli.places import Places, places
from understudy.config import S3Vault, Vault
from understudy.core.views import DamageState, DamageView

if TYPE_CHECKING:
    from understudy.adapters.orthanc import Orthanc
    from understudy.core.ports import ObjectStore, Opener, RestoreTarget
    from understudy.flow.restore import Catalog, RestoreResult


def restore(arguments: argparse.Namespace) -> int:
    """List a vault, or restore one study or everything; exit 1 where anything did not come back."""
    from understudy.adapters.encryption import AgeOpener
    from understudy.core.ports import HolderUnavailableError, SealError
    from understudy.flow.restore import RestoreError, catalog

    vault = _vault(arguments.vault)
    with telling(RestoreError, SealError, HolderUnavailableError):
        opener = AgeOpener(_identity(arguments.identity_file))
        store = _store(vault, arguments.credentials_file)
        if arguments.list:
            return _list(catalog(store, opener))
        result = _bring_back(store, opener, _target(places(), arguments.to), arguments.study)
    print(
        f"{result.restored} restored, {result.skipped} there already, "
        f"{result.superseded} older versions left, {len(result.failed)} failed"
    )
    if not result.complete:
        packs = [f"{pack}: it has no manifest, and was not opened" for pack in result.unlisted_packs]
        raise CommandError(
            f"{len(result.failed)} did not come back, and {len(packs)} packs were not opened",
            "run it again: what is there is skipped; a pack without a manifest opens by age, zstd and tar",
            [*(f"{failure.what}: {failure.reason}" for failure in result.failed), *packs],
        )
    _tell_unlisted(result.unlisted_packs)
    return Exit.OK


def heal(arguments: argparse.Namespace) -> int:
    """Bring missing or changed stored files back from a vault, or let the agent ask its holders now."""
    client = Client(places().socket)
    content = client.post("/heal", {"missed": arguments.missed})
    if arguments.vault is not None:
        _heal_from(client, arguments)
        content = client.post("/heal", {})
    number = TypeAdapter(dict[str, int]).validate_json(content)["changed"]
    print(f"{number} stored file{'' if number == 1 else 's'} to heal: watch understudy damages")
    return Exit.OK


def _heal_from(client: Client, arguments: argparse.Namespace) -> None:
    """Put what a vault has in the place of every file that is open, study by study."""
    from understudy.adapters.encryption import AgeOpener
    from understudy.adapters.healing import HealingTarget
    from understudy.core.ports import HolderUnavailableError, SealError
    from understudy.flow.restore import RestoreError
    from understudy.flow.restore import restore as bring_back

    if arguments.identity_file is None:
        raise CommandError("a vault is opened by an identity", "give --identity-file from the safe")
    vault = _vault(arguments.vault)
    found = client.read(list[DamageView], "/damages", limit=10_000)
    wanted = [view for view in found if view.state is DamageState.OPEN]
    where = places()
    failed: list[str] = []
    with telling(SealError, HolderUnavailableError):
        opener = AgeOpener(_identity(arguments.identity_file))
        store = _store(vault, arguments.credentials_file)
        target = HealingTarget(_orthanc(where), where.state / "heal", wanted)
        for study in sorted({view.study_instance_uid for view in wanted}):
            try:
                result = bring_back(store, opener, target, study)
            except RestoreError as error:
                failed.append(f"{study}: {error}")
                continue
            failed += [f"{failure.what}: {failure.reason}" for failure in result.failed]
    print(f"{target.put} of {len(wanted)} files were put in place from {vault.name}")
    if failed:
        raise CommandError(
            f"{len(failed)} did not come back", "see another vault, or send them again", failed
        )


def _orthanc(where: Places) -> "Orthanc":
    from understudy.adapters.orthanc import Orthanc

    secret = (where.keys / "service" / "agent").read_text(encoding="ascii").strip()
    return Orthanc(where.orthanc, "agent", secret, timeout=60)


def _vault(name: str) -> Vault:
    vaults = configuration().vaults
    for vault in vaults:
        if vault.name == name:
            return vault
    names = ", ".join(vault.name for vault in vaults) or "none"
    raise CommandError(f"there is no vault {name}", f"the configuration has: {names}")


def _identity(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        # The reason only: the text is a secret.
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandError(
            f"the identity file {source} cannot be read: {reason}",
            "give the file that was kept at the first start",
        ) from None


def _store(vault: Vault, credentials_file: Path | None) -> "ObjectStore":
    if isinstance(vault, S3Vault):
        from understudy.adapters.s3 import CredentialsError, S3Store, read_credentials

        path = credentials_file or vault.credentials_file
        with telling(CredentialsError):
            credentials = read_credentials(path)
        return S3Store(vault.name, vault.endpoint, vault.bucket, vault.region, lambda: credentials)
    from understudy.adapters.directory import DirectoryStore

    return DirectoryStore(vault.name, vault.directory)


def _target(where: Places, folder: Path | None) -> "RestoreTarget":
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
    # A large series takes Orthanc a while to write; silence of a minute is a fault.
    return OrthancTarget(httpx.Client(base_url=where.orthanc, auth=("agent", password), timeout=60))


def _bring_back(
    store: "ObjectStore", opener: "Opener", target: "RestoreTarget", study: str | None
) -> "RestoreResult":
    from understudy.cli.progress import Bar
    from understudy.cli.words import size
    from understudy.flow.restore import Progress
    from understudy.flow.restore import restore as bring_back

    started = time.monotonic()
    with Bar("restore", "instances") as bar:

        def show(progress: Progress) -> None:
            seconds = max(time.monotonic() - started, 1e-3)
            rate = progress.instances_done / seconds
            # By bytes, since instances differ in size by a thousand.
            speed = progress.bytes_done / seconds
            left = (progress.bytes_total - progress.bytes_done) / speed if speed else None
            text = f"{size(progress.bytes_done)} of {size(progress.bytes_total)}"
            bar.show(progress.instances_done, progress.instances_total, rate, left, text)

        return bring_back(store, opener, target, study, show)


def _list(found: "Catalog") -> int:
    from understudy.cli.show import new_console, new_table
    from understudy.cli.words import count, size

    table = new_table("Studies", "Study Instance UID", "date", "modality", "patient", ">instances", ">size")
    for study in found.studies:
        table.add_row(
            study.study_instance_uid,
            study.facts.study_date,
            study.facts.modality,
            f"{study.facts.patient_name} {study.facts.patient_id}".strip(),
            count(study.instances),
            size(study.size),
        )
    new_console().print(table)
    _tell_unlisted(found.unlisted_packs)
    if found.failed:
        raise CommandError(
            f"{len(found.failed)} manifests cannot be read",
            "their packs can be opened by age, zstd and tar",
            [f"{failure.what}: {failure.reason}" for failure in found.failed],
        )
    return Exit.OK


def _tell_unlisted(packs: tuple[str, ...]) -> None:
    for pack in packs:
        print(f"understudy: {pack} has no manifest; open it by age, zstd and tar", file=sys.stderr)
