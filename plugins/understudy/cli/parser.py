"""All commands in one parser, and the options of those that set the appliance up (local.py)."""

import argparse
from functools import cache
from pathlib import Path

from understudy.cli import acting, local, reading
from understudy.cli.options import EPILOG, Commands, add_command


@cache
def parser() -> argparse.ArgumentParser:
    """Return the parser; each command sets `run`, a function from the parsed arguments to an exit code."""
    top = argparse.ArgumentParser(
        prog="understudy", description="The standby PACS appliance, at its own command line.", epilog=EPILOG
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    reading.add_commands(commands)
    acting.add_commands(commands)
    _setting_up(commands)
    return top


def _setting_up(commands: Commands) -> None:
    init = add_command(commands, "init", "make keys, certificate and administrator where they are missing")
    init.set_defaults(run=local.init)

    first = add_command(
        commands, "first-start", "show the secrets of the first start once, then destroy them"
    )
    first.set_defaults(run=local.first_start)

    writer = add_command(
        commands, "vault-writer", "print the public key that signs the vaults' packs, for the safe"
    )
    writer.set_defaults(run=local.vault_writer)

    check = add_command(commands, "check-config", "check the configuration and list every problem")
    check.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="the appliance's own folder if absent"
    )
    check.set_defaults(run=local.check_config)

    render = add_command(
        commands, "render-orthanc", "print the part of Orthanc's configuration that follows from ours"
    )
    render.set_defaults(run=local.render_orthanc)

    edge = add_command(commands, "render-edge", "make the configuration of the edge from ours")
    edge.add_argument(
        "--to", type=Path, metavar="DIR", help="write it here, with the gate's tables; print it if absent"
    )
    edge.set_defaults(run=local.render_edge)

    prepare = add_command(
        commands,
        "prepare-orthanc",
        "prepare Orthanc's index and sort files that a crash left, before Orthanc starts",
    )
    prepare.add_argument(
        "--render", type=Path, metavar="FILE", help="write what render-orthanc prints to this file first"
    )
    prepare.set_defaults(run=local.prepare_orthanc)

    aside = add_command(
        commands, "quarantine", "list the files in quarantine and the parked instances, and why"
    )
    aside.add_argument(
        "--release", metavar="UID", help="accept this parked instance again; in the service orthanc"
    )
    aside.set_defaults(run=local.quarantine)

    schema = add_command(
        commands, "config-schema", "print the JSON Schema of our section of the configuration"
    )
    schema.set_defaults(run=local.config_schema)

    certificate = add_command(
        commands, "certificate", "revoke the certificate of a device, or undo a revocation"
    )
    actions = certificate.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text, act in (
        ("revoke", "refuse new associations with this certificate", local.certificate_revoke),
        ("allow", "undo a revocation", local.certificate_allow),
    ):
        one = add_command(actions, name, text)
        one.add_argument(
            "fingerprint", metavar="SHA256", help="of the certificate in DER form, in hexadecimal"
        )
        one.set_defaults(run=act)
    listing = add_command(actions, "list", "list the fingerprints that are revoked")
    listing.set_defaults(run=local.certificate_list)

    user = add_command(
        commands, "user", "add, remove or list the people who may sign in, or reset a password"
    )
    actions = user.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = add_command(actions, "add", "add a person and print the generated password")
    add.add_argument("name")
    add.add_argument("--role", choices=["admin", "operator", "reader"], required=True)
    add.set_defaults(run=local.user_add)
    reset = add_command(actions, "reset", "give a person a new generated password, and print it")
    reset.add_argument("name")
    reset.set_defaults(run=local.user_reset)
    remove = add_command(actions, "remove", "remove a person")
    remove.add_argument("name")
    remove.set_defaults(run=local.user_remove)
    listing = add_command(actions, "list", "list all people with their roles")
    listing.set_defaults(run=local.user_list)
