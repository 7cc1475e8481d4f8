"""The subcommands and their options. Their code is in remote.py, local.py, restore.py and conflicts.py."""

import argparse
from functools import cache
from pathlib import Path
from typing import TypeAlias

from understudy.cli import conflicts as conflict_commands
from understudy.cli import local, remote, restore
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState

_EPILOG = "exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the agent cannot be reached"


@cache
def parser() -> argparse.ArgumentParser:
    """Return the parser; each command sets `run`, a function from the parsed arguments to an exit code."""
    top = argparse.ArgumentParser(
        prog="understudy", description="The standby PACS appliance, at its own command line.", epilog=_EPILOG
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _looking(commands)
    _acting(commands)
    _setting_up(commands)
    return top


# argparse gives this type no public name, and the class takes no type argument at run time.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EPILOG)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the agent's answer as JSON, for programs")


def _selecting(command: argparse.ArgumentParser) -> None:
    command.add_argument("--holder", metavar="NAME", help="only for this holder")
    command.add_argument("--study", metavar="UID", help="only for this Study Instance UID")


def _epoch(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="the epoch that you saw in the status; the current one if absent",
    )


def _wait(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wait", action="store_true", help="show the progress until the operation ends")


def _looking(commands: Commands) -> None:
    status = _add(commands, "status", "show mode, primary, mirror, holders, operations and alarms")
    _json(status)
    status.set_defaults(run=remote.status)

    health = _add(commands, "health", "tell by the exit code whether the appliance is healthy")
    health.add_argument("--role", choices=[mode.value for mode in Mode], help="healthy only in this mode")
    health.add_argument(
        "--max-lag", type=float, metavar="SECONDS", help="healthy only if the mirror lags no more than this"
    )
    health.set_defaults(run=remote.health)

    operations = _add(commands, "operations", "show the last operations, newest first")
    operations.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (20)")
    _json(operations)
    operations.set_defaults(run=remote.operations)

    obligations = _add(commands, "obligations", "show which instances are owed to which holder")
    _selecting(obligations)
    obligations.add_argument(
        "--state", choices=[state.value for state in ObligationState], help="only in this state"
    )
    obligations.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    _json(obligations)
    obligations.set_defaults(run=remote.obligations)

    letters = _add(commands, "dead-letters", "show refused instances by reason, and what to do about them")
    _selecting(letters)
    _json(letters)
    letters.set_defaults(run=remote.dead_letters)

    damages = _add(commands, "damages", "show stored files that were found missing or changed")
    damages.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    _json(damages)
    damages.set_defaults(run=remote.damages)

    conflicts = _add(commands, "conflicts", "show SOP Instance UIDs that came with two different contents")
    conflicts.add_argument("--all", action="store_true", help="also those that need no action")
    conflicts.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    act = conflicts.add_mutually_exclusive_group()
    act.add_argument(
        "--export", nargs=2, metavar=("UID", "DIR"), help="write every version of this instance into a folder"
    )
    act.add_argument("--acknowledge", type=int, metavar="N", help="close this conflict; needs --reason")
    conflicts.add_argument("--reason", help="why it is closed, for the event log")
    _json(conflicts)
    conflicts.set_defaults(run=conflict_commands.conflicts)

    routes = _add(commands, "routes", "show what the routes of the configuration do")
    actions = routes.add_subparsers(title="actions", metavar="ACTION", required=True)
    explain = _add(actions, "explain", "show which routes match a study that is here, and why")
    explain.add_argument("study_instance_uid", metavar="STUDY_INSTANCE_UID")
    _json(explain)
    explain.set_defaults(run=remote.explain)

    modalities = _add(commands, "modalities", "show the devices that send here or have tried to")
    _json(modalities)
    modalities.set_defaults(run=remote.modalities)


def _acting(commands: Commands) -> None:
    promote = _add(commands, "promote", "take the primary's place")
    promote.add_argument("--reason", required=True, help="why, for the event log")
    promote.add_argument(
        "--force", action="store_true", help="even if the probes do not show that the primary is down"
    )
    promote.add_argument(
        "--accept-loss",
        action="store_true",
        help="even if images are known to be missing, or the mirror lags too much",
    )
    _epoch(promote)
    promote.set_defaults(run=remote.promote)

    failback = _add(commands, "failback", "send the repaired primary every instance that it lacks")
    failback.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    _wait(failback)
    _epoch(failback)
    failback.set_defaults(run=remote.failback)

    settle = _add(commands, "settle", "end the failback: the primary serves again")
    settle.add_argument(
        "--override-quiet",
        metavar="REASON",
        help="why to settle although a modality stored here a short time ago",
    )
    _epoch(settle)
    settle.set_defaults(run=remote.settle)

    for name, text in (
        ("interrupt", "stop the failback; proven instances stay proven"),
        ("hold", "begin planned work at the primary: no promotion meanwhile"),
        ("release", "end planned work at the primary"),
    ):
        command = _add(commands, name, text)
        command.add_argument("--reason", required=True, help="why, for the event log")
        _epoch(command)
        command.set_defaults(run=remote.change, verb=name)

    accept = _add(commands, "accept-recipients", "accept that the recipients of a vault were changed")
    accept.add_argument("--vault", required=True, metavar="NAME", help="name of the vault")
    accept.add_argument("--reason", required=True, help="why, for the event log")
    accept.set_defaults(run=remote.accept_recipients)

    verify = _add(commands, "verify", "ask every holder again for every instance that is proven there")
    _wait(verify)
    verify.set_defaults(run=remote.verify)

    scrub = _add(commands, "scrub", "read every stored file from the disk now and compare it with its MD5")
    _wait(scrub)
    scrub.set_defaults(run=remote.scrub)

    heal = _add(commands, "heal", "try now to heal stored files that are missing or changed")
    heal.add_argument(
        "--missed",
        action="store_true",
        help="also bring back instances that Orthanc lacked after its index was replaced or restored",
    )
    heal.add_argument("--vault", metavar="NAME", help="from this vault; from the primary if absent")
    heal.add_argument(
        "--identity-file", metavar="FILE", help="the age identity from the safe, or - for standard input"
    )
    heal.add_argument("--credentials-file", type=Path, metavar="FILE", help="S3 keys that may read")
    heal.set_defaults(run=restore.heal)

    cancel = _add(commands, "cancel", "stop a running operation")
    cancel.add_argument("operation", type=int, metavar="N", help="its number")
    cancel.set_defaults(run=remote.cancel)

    replay = _add(commands, "replay", "try refused instances again")
    _selecting(replay)
    replay.add_argument("--reason", help="what was fixed, for the event log")
    _epoch(replay)
    replay.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="these only; all refused ones if absent"
    )
    replay.set_defaults(run=remote.replay)

    waive = _add(commands, "waive", "decide that one holder never has to get these instances")
    waive.add_argument("--holder", required=True, metavar="NAME", help="the holder")
    waive.add_argument("--study", metavar="UID", help="all instances of this Study Instance UID")
    waive.add_argument("--reason", required=True, help="why, for the event log")
    _epoch(waive)
    waive.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="these instances, or those of --study"
    )
    waive.set_defaults(run=remote.waive)

    delete = _add(commands, "delete", "delete a study here that is proven at other holders")
    delete.add_argument("study", metavar="STUDY_INSTANCE_UID")
    delete.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="only these instances of the study"
    )
    delete.add_argument("--series", metavar="UID", help="only this Series Instance UID")
    delete.add_argument("--reason", required=True, help="why, for the event log")
    delete.add_argument(
        "--force", action="store_true", help="even if it is owed to a holder, or proven at no other holder"
    )
    delete.set_defaults(run=remote.delete)

    back = _add(commands, "restore", "bring studies back from a vault, with every digest checked")
    back.add_argument("--vault", required=True, metavar="NAME", help="name of the vault in the configuration")
    back.add_argument(
        "--identity-file",
        required=True,
        metavar="FILE",
        help="the age identity from the safe, or - for standard input",
    )
    back.add_argument("--study", metavar="UID", help="this Study Instance UID; everything if absent")
    back.add_argument(
        "--to", type=Path, metavar="DIR", help="into this folder; into this appliance if absent"
    )
    back.add_argument("--list", action="store_true", help="show what is in the vault and restore nothing")
    back.add_argument(
        "--credentials-file",
        type=Path,
        metavar="FILE",
        help="S3 keys that may read; the appliance's own may only write",
    )
    back.add_argument(
        "--as-of",
        type=restore.moment,
        metavar="TIME",
        help="leave out packs that were stored after this time",
    )
    back.add_argument(
        "--version",
        action="append",
        type=restore.digest,
        default=[],
        metavar="SHA256",
        help="of several contents of an instance, take this one; at least 8 digits, may be repeated",
    )
    back.add_argument(
        "--newest",
        action="store_true",
        help="of several contents of an instance, take the one stored last, if all are signed",
    )
    back.add_argument(
        "--writer",
        action="append",
        type=restore.writer,
        default=[],
        metavar="KEY",
        help="also trust packs signed by this key (the vault writer from the safe); may be repeated",
    )
    back.add_argument("--accept-unsigned", action="store_true", help="also trust packs without a signature")
    back.set_defaults(run=restore.restore)

    for name, text in (
        ("approve", "put a device on the allow-list, at once and for good"),
        ("revoke", "undo an approval"),
    ):
        command = _add(commands, name, text)
        command.add_argument(
            "calling_ae_title", metavar="AE_TITLE", help="the calling AE title of the device"
        )
        command.add_argument("address", metavar="ADDRESS", help="IP address or network that it calls from")
        command.add_argument("--called", metavar="AE_TITLE", help="the only AE title that it may call")
        command.set_defaults(run=remote.device, verb=name)


def _setting_up(commands: Commands) -> None:
    init = _add(commands, "init", "make keys, certificate and administrator where they are missing")
    init.set_defaults(run=local.init)

    first = _add(commands, "first-start", "show the secrets of the first start once, then destroy them")
    first.set_defaults(run=local.first_start)

    writer = _add(commands, "vault-writer", "print the public key that signs the vaults' packs, for the safe")
    writer.set_defaults(run=local.vault_writer)

    check = _add(commands, "check-config", "check the configuration and list every problem")
    check.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="the appliance's own folder if absent"
    )
    check.set_defaults(run=local.check_config)

    render = _add(
        commands, "render-orthanc", "print the part of Orthanc's configuration that follows from ours"
    )
    render.set_defaults(run=local.render_orthanc)

    edge = _add(commands, "render-edge", "make the configuration of the edge from ours")
    edge.add_argument(
        "--to", type=Path, metavar="DIR", help="write it here, with the gate's tables; print it if absent"
    )
    edge.set_defaults(run=local.render_edge)

    prepare = _add(
        commands,
        "prepare-orthanc",
        "prepare Orthanc's index and sort files that a crash left, before Orthanc starts",
    )
    prepare.add_argument(
        "--render", type=Path, metavar="FILE", help="write what render-orthanc prints to this file first"
    )
    prepare.set_defaults(run=local.prepare_orthanc)

    aside = _add(commands, "quarantine", "list the files in quarantine and the parked instances, and why")
    aside.add_argument(
        "--release", metavar="UID", help="accept this parked instance again; in the service orthanc"
    )
    aside.set_defaults(run=local.quarantine)

    schema = _add(commands, "config-schema", "print the JSON Schema of our section of the configuration")
    schema.set_defaults(run=local.config_schema)

    certificate = _add(commands, "certificate", "revoke the certificate of a device, or undo a revocation")
    actions = certificate.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text, act in (
        ("revoke", "refuse new associations with this certificate", local.certificate_revoke),
        ("allow", "undo a revocation", local.certificate_allow),
    ):
        one = _add(actions, name, text)
        one.add_argument(
            "fingerprint", metavar="SHA256", help="of the certificate in DER form, in hexadecimal"
        )
        one.set_defaults(run=act)
    listing = _add(actions, "list", "list the fingerprints that are revoked")
    listing.set_defaults(run=local.certificate_list)

    user = _add(commands, "user", "add, remove or list the people who may sign in, or reset a password")
    actions = user.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = _add(actions, "add", "add a person and print the generated password")
    add.add_argument("name")
    add.add_argument("--role", choices=["admin", "operator", "reader"], required=True)
    add.set_defaults(run=local.user_add)
    reset = _add(actions, "reset", "give a person a new generated password, and print it")
    reset.add_argument("name")
    reset.set_defaults(run=local.user_reset)
    remove = _add(actions, "remove", "remove a person")
    remove.add_argument("name")
    remove.set_defaults(run=local.user_remove)
    listing = _add(actions, "list", "list all people with their roles")
    listing.set_defaults(run=local.user_list)
