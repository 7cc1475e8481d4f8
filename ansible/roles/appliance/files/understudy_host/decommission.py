"""Ends an appliance: refused while anything is owed to somebody or the appliance stands in for the PACS."""

from collections.abc import Iterator, Mapping
from typing import Any

from understudy_host.compose import Compose, status
from understudy_host.places import Places, RefusedError, image_of

UNPROVEN = ("owed", "in_flight", "sent", "refused")


def decommission(places: Places) -> str:
    """Stop and remove the services, and return what stays; raise RefusedError with every reason not to."""
    found = list(reasons(status(places)))
    if found:
        raise RefusedError("\n".join(found))
    image = image_of(places)
    compose = Compose(places)
    compose.stop()
    compose.remove()
    return f"the services are removed; the data stays in {places.data}, the image {image} in Docker"


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
