"""What an instance owes."""

import pytest
from understudy.core.model import HolderName
from understudy.core.rules import Route, Rules

from tests.unit.fakes import PRIMARY, PRIMARY_AE, ROUTE, VAULT, new_instance

CT = "1.2.840.10008.5.1.4.1.1.2"


def rules(*routes: Route, primary: HolderName | None = PRIMARY) -> Rules:
    return Rules(primary, PRIMARY_AE if primary else "", [VAULT], routes)


def test_instance_of_a_modality_is_owed_to_vault_route_and_primary() -> None:
    assert rules(Route(ROUTE, "ARCHIVE")).owed(new_instance(1)) == [VAULT, ROUTE, PRIMARY]


def test_instance_of_the_primary_is_not_owed_to_it() -> None:
    found = rules(Route(ROUTE, "ARCHIVE"))
    forwarded = new_instance(1, calling=PRIMARY_AE)
    assert found.came_from_primary(forwarded)
    assert found.owed(forwarded) == [VAULT, ROUTE]


def test_instance_without_a_configured_primary_is_not_owed_to_one() -> None:
    # An instance that came over HTTP has no calling AE title, and neither has the primary that is not there.
    found = rules(primary=None)
    assert found.owed(new_instance(1, calling="")) == [VAULT]
    assert not found.came_from_primary(new_instance(1, calling=""))


def test_route_never_sends_back_to_where_the_instance_came_from() -> None:
    assert rules(Route(ROUTE, "ARCHIVE")).owed(new_instance(1, calling="ARCHIVE")) == [VAULT, PRIMARY]


@pytest.mark.parametrize(
    ("route", "wanted"),
    [
        (Route(ROUTE, "A"), True),
        (Route(ROUTE, "A", modalities=frozenset({"CT", "MR"})), True),
        (Route(ROUTE, "A", modalities=frozenset({"MR"})), False),
        (Route(ROUTE, "A", sop_classes=frozenset({CT})), True),
        (Route(ROUTE, "A", sop_classes=frozenset({"1.2"})), False),
        (Route(ROUTE, "A", calling_ae_titles=frozenset({"CT1"})), True),
        (Route(ROUTE, "A", calling_ae_titles=frozenset({"CT2"})), False),
        (Route(ROUTE, "A", frozenset({"CT"}), frozenset({CT}), frozenset({"CT1"})), True),
        (Route(ROUTE, "A", frozenset({"CT"}), frozenset({CT}), frozenset({"CT2"})), False),
    ],
)
def test_route_wants_what_every_given_list_names(route: Route, wanted: bool) -> None:
    assert route.wants(new_instance(1)) is wanted
