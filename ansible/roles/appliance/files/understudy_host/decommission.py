"""Ends an appliance: refused while an instance is owed or the appliance stands in for the PACS.

Rule 1: erased data has to be somewhere else. A vault in a directory is erased with the rest, so its proofs do
not count then.
Rule 2: the agent's last status is evaluated and the result is on disk before the services are removed.
Nothing is erased without it: missing containers prove nothing.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy_host.compose import START_SECONDS, Compose, status
from understudy_host.mounts import mounted_below, not_mounted
from understudy_host.places import HostError, Places, RefusedError, image_of, replace_durably

UNPROVEN = ("owed", "in_flight", "sent", "refused")
NOTED_SECONDS = 10
"""Seconds after the edge stops in which the agent notes the last instances; it looks every second."""


def decommission(
    places: Places, *, erase: bool = False, accept_loss: bool = False, disks: Collection[Path] = ()
) -> str:
    """Stop and remove the services, and return a message; raise RefusedError with every reason against it.

    With `erase` the caller erases all data afterwards, also that on the mounted `disks`. It is refused unless
    a holder elsewhere is proven to have everything, or the loss is accepted. If an earlier call removed the
    services, the status of that time decides.
    """
    compose = Compose(places)
    if erase:
        _refuse_if(
            f"{path} is mounted and not in host_disks, and would be emptied: unmount it"
            for path in mounted_below(places.data)
            if path not in disks
        )
        _refuse_if(
            f"{path} is in /etc/fstab and not mounted, and its disk would not be erased: `mount {path}`. "
            "A disk that is broken: take it out of host_disks and destroy it"
            for path in not_mounted(disks)
        )
    if compose.exists():
        _refuse_if(_all_reasons(places, status(places), erase=erase and not accept_loss))
        try:
            compose.stop("edge")
            told = _told_at_last(places)
            _refuse_if(_all_reasons(places, told, erase=erase and not accept_loss))
            kept = list(reasons_to_keep(told, elsewhere(places, told)))
            replace_durably(places.decommissioned, json.dumps(kept), mode=0o600)
        except (HostError, OSError):
            compose.up(seconds=START_SECONDS)
            raise
        compose.stop()
        compose.remove()
    elif not places.decommissioned.exists():
        raise RefusedError(
            "there are no services here, and what they held is not known: `systemctl start understudy`, "
            "then try again"
        )
    elif erase and not accept_loss:
        _refuse_if(json.loads(places.decommissioned.read_text(encoding="utf-8")))
    return (
        f"the services are removed; the data stays in {places.data}, the image {image_of(places)} in Docker"
    )


def _refuse_if(found: Iterable[str]) -> None:
    why = "\n".join(found)
    if why:
        raise RefusedError(why)


def _told_at_last(places: Places) -> Mapping[str, Any]:
    """Return the status after the edge has stopped and the last instances are noted."""
    before = status(places)
    time.sleep(NOTED_SECONDS)
    told = status(places)
    if told["instances"] != before["instances"]:
        raise RefusedError(f"{told['instances'] - before['instances']} instances came just now: try again")
    return told


def _all_reasons(places: Places, told: Mapping[str, Any], *, erase: bool) -> Iterator[str]:
    yield from reasons(told)
    if erase:
        yield from reasons_to_keep(told, elsewhere(places, told))


def reasons(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield the reasons against removing the appliance, given its status."""
    if told["mode"] not in ("standby", "maintenance"):
        yield f"the appliance is {told['mode']}: run failback and settle first"
    for holder in told["holders"]:
        unproven = {state: holder[state] for state in UNPROVEN if holder[state]}
        if unproven:
            counts = ", ".join(f"{count} {state}" for state, count in unproven.items())
            yield (
                f"not everything is proven at {holder['name']}: {counts}. Check that it answers; replay "
                "refused instances, or waive with a reason those that it never has to get"
            )
    if told["instances"] and not any(holder["proven"] for holder in told["holders"]):
        yield f"{told['instances']} instances are here, and no other holder is proven to have any"
    for operation in told["operations"]:
        if operation["kind"] == "rescan" and operation["state"] == "running":
            yield f"operation {operation['operation']}, a rescan, runs: wait until it has ended"


def reasons_to_keep(told: Mapping[str, Any], elsewhere: Collection[str]) -> Iterator[str]:
    """Yield the reasons against erasing the data, given the status and the holders that are elsewhere."""
    instances = told["instances"]
    there = [holder for holder in told["holders"] if holder["name"] in elsewhere]
    whole = [holder for holder in there if holder["proven"] >= instances]
    if instances and not whole:
        proven = ", ".join(f"{holder['name']} {holder['proven']}" for holder in there) or "nobody"
        yield f"no other holder is proven to have all {instances} instances: {proven}"
    elif told.get("departed") and all(holder["kind"] == "primary" for holder in whole):
        yield f"only the PACS had all, and it no longer lists {told['departed']} of them"


def elsewhere(places: Places, told: Mapping[str, Any]) -> set[str]:
    """Return the holders that stay if this host's data is erased: all except vaults in a directory."""
    configured = json.loads((places.configuration / "understudy.json").read_text(encoding="utf-8"))
    vaults = configured["Understudy"].get("Vaults", [])
    stay = {vault["Name"] for vault in vaults if "Endpoint" in vault}
    return {
        holder["name"] for holder in told["holders"] if holder["kind"] != "vault" or holder["name"] in stay
    }
