"""The command `understudy-host`, which systemd units and plays run as root."""

import argparse
import sys
from pathlib import Path

from understudy_host import certificate
from understudy_host.backup import back_up
from understudy_host.check_config import check_config
from understudy_host.compose import SERVICES, Compose, status
from understudy_host.decommission import decommission
from understudy_host.diagnose import diagnose
from understudy_host.handover import hand_over_first_start
from understudy_host.metrics import write_metrics
from understudy_host.places import HostError, Places, RefusedError, image_of
from understudy_host.supervise import last_mode, supervise
from understudy_host.update import MAY_UPDATE, update

FAILED, REFUSED = 1, 3


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 3 refused and nothing changed."""
    parsed = _parser().parse_args(arguments)
    try:
        said = _run(parsed, Places())
    except (HostError, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED if isinstance(error, RefusedError) else FAILED
    if said:
        print(said)
    return 0


def _run(parsed: argparse.Namespace, places: Places) -> str:
    match parsed.verb:
        case "supervise":
            supervise(places)
            return ""
        case "stop":
            Compose(places).stop()
            return ""
        case "restart":
            return Compose(places).restart_healthy(parsed.service)
        case "check-config":
            return check_config(places, parsed.image or image_of(places), parsed.candidate)
        case "update":
            return update(places, parsed.image, without_status=parsed.without_status)
        case "back-up":
            return str(back_up(places, parsed.recipient))
        case "metrics":
            return str(write_metrics(places))
        case "diagnose":
            missing = diagnose(places, parsed.target)
            return f"without what could not be read: {', '.join(missing)}" if missing else ""
        case "certificate-holds":
            return certificate.holds(
                places, sys.stdin.read(), days=parsed.days, names=parsed.names.split(",")
            )
        case "request-certificate":
            return certificate.request(places, parsed.names.split(","))
        case "place-certificate":
            return certificate.place(places, sys.stdin.read(), only_look=parsed.only_look)
        case "hand-over-first-start":
            return hand_over_first_start(places)
        case "install-certificate":
            return certificate.install(places, sys.stdin.read())
        case "decommission":
            return decommission(places, erase=parsed.erase, accept_loss=parsed.accept_loss, disks=parsed.disk)
        case _:
            return may_maintain(places)


def may_maintain(places: Places) -> str:
    """Return why the host may be maintained now, or raise RefusedError while it stands in for the PACS.

    Orthanc receives images even while the agent does not answer, so then the agent's last known mode counts.
    """
    try:
        mode, how = status(places)["mode"], "the appliance is"
    except HostError as error:
        mode, how = last_mode(places), f"{error}; when it last did, the appliance was"
    if mode is None:
        # The appliance never served, so maintenance disturbs nobody, and may be what it needs.
        return "the agent has never answered: nothing is served that maintenance could disturb"
    if mode not in MAY_UPDATE:
        raise RefusedError(f"{how} {mode}: maintenance waits")
    return f"{how} {mode}"


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="understudy-host", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    for name, text in (
        ("supervise", "start the appliance and watch it (for systemd)"),
        ("stop", "stop the services in order (for systemd)"),
        ("metrics", "write the host's metrics for node exporter"),
        ("may-maintain", "exit 0 unless the appliance stands in for the PACS"),
    ):
        verbs.add_parser(name, help=text)
    again = verbs.add_parser("restart", help="restart one service and wait until it is healthy")
    again.add_argument("service", choices=SERVICES)
    check = verbs.add_parser("check-config", help="check the configuration with the image's own checker")
    check.add_argument("--image", help="by this image; the running one if absent")
    check.add_argument("candidate", nargs="?", type=Path, help="a file in the place of understudy.json")
    change = verbs.add_parser("update", help="replace the image; rolled back by itself")
    change.add_argument("--without-status", action="store_true", help="even if the agent does not answer")
    change.add_argument("image")
    keep = verbs.add_parser("back-up", help="write an encrypted copy of configuration and keys")
    keep.add_argument("--recipient", action="append", default=[], help="age recipient; the vault's if absent")
    holds = verbs.add_parser(
        "certificate-holds", help="exit 3 unless the authority on standard input signed it"
    )
    holds.add_argument("--days", type=int, required=True, help="for at least this time")
    holds.add_argument("--names", required=True, help="for these names and addresses")
    ask = verbs.add_parser("request-certificate", help="make a key, and print a request for its certificate")
    ask.add_argument("--names", required=True, help="names and addresses, separated by commas")
    given = verbs.add_parser("place-certificate", help="install certificate and key on standard input")
    given.add_argument(
        "--only-look", action="store_true", help="say whether they are new, and change nothing"
    )
    verbs.add_parser(
        "hand-over-first-start", help="write the first start's secrets to a file that only root can read"
    )
    verbs.add_parser("install-certificate", help="install the chain on standard input with that key")
    end = verbs.add_parser("decommission", help="remove the services; refused while anything is unproven")
    end.add_argument("--erase", action="store_true", help="all data is erased afterwards")
    end.add_argument("--accept-loss", action="store_true", help="even if no other holder has everything")
    end.add_argument("--disk", action="append", default=[], type=Path, help="a mount that is erased as well")
    collect = verbs.add_parser("diagnose", help="collect data that helps to find a fault")
    collect.add_argument("target", type=Path)
    return top


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
