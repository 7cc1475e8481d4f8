"""Ends an appliance: refused while anything is owed to somebody or the appliance stands in for the PACS."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from understudy_host.compose import START_SECONDS, Compose, status
from understudy_host.places import HostError, Places, RefusedError, image_of

UNPROVEN = ("owed", "in_flight", "sent", "refused")
NOTED_SECONDS = 10
"""How long after the last association all that came has to be noted; the agent looks every second."""


def decommission(places: Places) -> str:
    """Stop and remove the services, and return what stays; raise RefusedError with every reason not to.

    Where there are none any more it returns the same: what was broken off can be done again.
    """
    compose = Compose(places)
    if compose.exists():
        _refuse_if(reasons(status(places)))
        try:
            compose.stop("edge")
            _refuse_if(_late_reasons(places))
        except HostError:
            compose.up(seconds=START_SECONDS)
            raise
        compose.stop()
        compose.remove()
    return (
        f"the services are removed; the data stays in {places.data}, the image {image_of(places)} in Docker"
    )


def _refuse_if(found: Iterator[str]) -> None:
    why = "\n".join(found)
    if why:
        raise RefusedError(why)


def _late_reasons(places: Places) -> Iterator[str]:
    """Yield the reasons once nobody is let in any more, and what came last is noted."""
    before = status(places)
    time.sleep(NOTED_SECONDS)
    told = status(places)
    if told["instances"] != before["instances"]:
        yield f"{told['instances'] - before['instances']} instances came just now: try again"
    yield from reasons(told)


def reasons(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the appliance cannot be taken away, given its status."""
    if told["mode"] not in ("standby", "maintenance"):
        yield f"the appliance is {told['mode']}: give back and settle first"
    for holder in told["holders"]:
        unproven = {state: holder[state] for state in UNPROVEN if holder[state]}
        if unproven:
            counts = ", ".join(f"{count} {state}" for state, count in unproven.items())
            yield f"not everything is proven at {holder['name']}: {counts}"
    if told["instances"] and not any(holder["proven"] for holder in told["holders"]):
        yield f"{told['instances']} instances are here, and nobody else is proven to have any"
