"""`understudy heal`: try now to heal stored files, by the agent or from a vault."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from understudy.cli.client import Client
from understudy.cli.errors import CommandError, telling
from understudy.cli.options import Commands, add_command, add_wait
from understudy.cli.places import places
from understudy.cli.plain import say
from understudy.cli.vaults import open_store, read_identity, trusted, vault_named
from understudy.cli.waiting import begun
from understudy.core.text import counted
from understudy.core.views import DamageState, DamageView, OperationView

_AT_ONCE = 10_000
"""Most damages that one command heals from a vault."""


def add_heal(commands: Commands) -> None:
    """Add the command `heal`."""
    command = add_command(commands, "heal", "try now to heal stored files that are missing or changed")
    command.add_argument(
        "--missed",
        action="store_true",
        help="also bring back instances that Orthanc lacked after its index was replaced or restored",
    )
    command.add_argument(
        "--vault", metavar="NAME", help="first from this vault; only from the primary if absent"
    )
    command.add_argument(
        "--identity-file", metavar="FILE", help="the age identity from the safe, or - for standard input"
    )
    command.add_argument("--credentials-file", type=Path, metavar="FILE", help="S3 keys that may read")
    add_wait(command)
    command.set_defaults(run=heal)


def heal(arguments: argparse.Namespace) -> int:
    """Replace missing or changed stored files from a vault, then let the agent ask its holders."""
    client = Client(places().socket)
    failed: Sequence[str] = ()
    if arguments.vault is not None:
        damages = [
            view
            for view in client.read(list[DamageView], "/damages", limit=_AT_ONCE)
            if view.state is DamageState.OPEN
        ]
        if arguments.missed:
            damages += client.read(list[DamageView], "/damages", limit=_AT_ONCE, missed=True)
        failed = _heal_from(damages[:_AT_ONCE], arguments)
    view = client.act(OperationView, "/heal", {"missed": arguments.missed})
    if failed:
        raise CommandError(
            f"{counted(len(failed), 'file')} not restored",
            "try another vault, or send the images again",
            failed,
        )
    return begun(client, view, arguments)


def _heal_from(damages: Sequence[DamageView], arguments: argparse.Namespace) -> list[str]:
    """Replace damaged files by the vault's copies, study by study; return the failures."""
    from understudy.adapters.encryption import AgeOpener
    from understudy.adapters.healing import HealingTarget
    from understudy.adapters.orthanc import Orthanc
    from understudy.core.ports import HolderUnavailableError, SealError
    from understudy.flow.contents import RestoreError
    from understudy.flow.restore import Choice
    from understudy.flow.restore import restore as bring_back
    from understudy.system.spool import IN_MEMORY, Spool

    if arguments.identity_file is None:
        raise CommandError(
            "a vault can only be opened with its identity", "give --identity-file with the file from the safe"
        )
    vault, where = vault_named(arguments.vault), places()
    secret = (where.keys / "service" / "agent").read_text(encoding="ascii").strip()
    orthanc = Orthanc(where.orthanc, "agent", secret, timeout=60)
    failed: list[str] = []
    with telling(SealError, HolderUnavailableError):
        identity = read_identity(arguments.identity_file)
        opener = AgeOpener(identity)
        store = open_store(vault, arguments.credentials_file)
        spool = Spool(where.state, IN_MEMORY)
        target = HealingTarget(orthanc, where.state / "heal", damages, spool)
        # Unsigned packs are safe here: only content with the MD5 from the ledger replaces a file.
        digests = {view.md5 for view in damages}
        choice = Choice(lambda member: member.md5 in digests)
        studies = {view.study_instance_uid for view in damages}
        try:
            if studies:
                trust = trusted(identity, (), unsigned=True)
                result = bring_back(store, opener, target, studies, spool=spool, trust=trust, choice=choice)
                failed += [f"{failure.what}: {failure.reason}" for failure in result.failed]
        except RestoreError as error:
            failed.append(str(error))
    say(f"{target.put} of {counted(len(damages), 'file')} put in place from {vault.name}")
    return failed
