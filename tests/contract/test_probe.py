"""`understudy probe` beside what is so, with primaries of every habit that was met."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage
from understudy.core.capabilities import Ability, CapabilitiesView
from understudy.core.views import OperationState

from tests.contract.truth import Standby, standing_by
from tests.peer.pacs import ForeignPacs, Habits, Kept
from tests.unit.fakes import NOW

# pynetdicom drops the socket of a connection that failed without closing it; CPython closes it then.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

WORKS, LIMITED, MISSING, UNKNOWN = Ability
GOOD = Habits(takes=(CTImageStorage, MRImageStorage))
SOUND = {
    "association": WORKS,
    "services": WORKS,
    "list of studies": WORKS,
    "list of images": WORKS,
    "counts of images": WORKS,
    "character set": WORKS,
    "C-MOVE to this standby": WORKS,
    "C-GET": MISSING,
    "storage commitment": MISSING,
    "images that it takes": WORKS,
    "associations at a time": WORKS,
}
"""What a probe of `GOOD` finds: our peer offers neither C-GET nor storage commitment."""


def day(before: int) -> str:
    return (datetime.fromtimestamp(NOW, UTC) - timedelta(before)).strftime("%Y%m%d")


def images(study: str, *names: int, date: str) -> list[Kept]:
    return [Kept(study, f"{study}.1", f"{study}.1.{name}", date) for name in names]


RECENT = [image for number in range(1, 7) for image in images(f"1.2.{number}", 1, 2, 3, date=day(number - 1))]
"""18 images of 6 studies."""


@pytest.fixture
def pacs() -> Iterator[ForeignPacs]:
    with ForeignPacs(habits=GOOD, kept=list(RECENT)) as found:
        yield found


@pytest.fixture
def standby(tmp_path: Path, pacs: ForeignPacs) -> Iterator[Standby]:
    with standing_by(tmp_path, pacs) as found:
        yield found


def probed(standby: Standby) -> CapabilitiesView:
    """Probe as a person does, and return the result."""
    appliance = standby.appliance
    begun = appliance.probe("ann")
    assert appliance.probe("bob") == begun
    assert standby.parts.capabilities.step()
    view = appliance.capabilities()
    assert view is not None
    ended = appliance.operation(begun.operation)
    assert ended.state is (OperationState.DONE if view.suits else OperationState.FAILED)
    assert (ended.message, ended.done if view.suits else 11, ended.total) == (view.verdict, 11, 11)
    assert not standby.parts.capabilities.step()
    return view


def abilities(view: CapabilitiesView) -> dict[str, Ability]:
    return {one.name: one.ability for one in view.capabilities}


PROFILES: dict[str, tuple[Habits, dict[str, Ability], bool]] = {
    "faultless": (GOOD, {}, True),
    "no counts": (replace(GOOD, count="none"), {"counts of images": MISSING}, True),
    "counts 0": (replace(GOOD, count="zero"), {"counts of images": MISSING}, True),
    "list cut with a status": (replace(GOOD, most_studies=4), {"list of studies": LIMITED}, True),
    "list cut in silence": (
        replace(GOOD, most_studies=4, cut_status=0x0000),
        {"list of studies": LIMITED},
        True,
    ),
    "no images": (
        replace(GOOD, lists_images=False),
        {
            "list of images": MISSING,
            "C-MOVE to this standby": UNKNOWN,
            "C-GET": UNKNOWN,
            "storage commitment": UNKNOWN,
            "character set": UNKNOWN,
        },
        False,
    ),
    "moves nothing": (
        replace(GOOD, moves=False),
        {"C-MOVE to this standby": MISSING, "C-GET": UNKNOWN, "storage commitment": UNKNOWN},
        False,
    ),
    "takes no image": (replace(GOOD, takes=()), {"images that it takes": MISSING}, False),
    "refuses a class": (replace(GOOD, takes=(MRImageStorage,)), {"images that it takes": LIMITED}, True),
    "three associations": (replace(GOOD, associations=3), {"associations at a time": LIMITED}, True),
    "one association": (replace(GOOD, associations=1), {"associations at a time": LIMITED}, True),
    "no association free": (replace(GOOD, associations=0), dict.fromkeys(SOUND, UNKNOWN), False),
    "no right to query": (
        replace(GOOD, queries=False),
        {
            "services": MISSING,
            "list of studies": MISSING,
            "list of images": UNKNOWN,
            "counts of images": UNKNOWN,
            "character set": UNKNOWN,
            "C-MOVE to this standby": UNKNOWN,
            "C-GET": UNKNOWN,
            "storage commitment": UNKNOWN,
        },
        False,
    ),
    "rejects us": (
        replace(GOOD, rejects=True),
        {**dict.fromkeys(SOUND, UNKNOWN), "association": MISSING},
        False,
    ),
}


@pytest.mark.parametrize("profile", PROFILES)
def test_probe_finds_what_is_so(standby: Standby, pacs: ForeignPacs, profile: str) -> None:
    pacs.habits, differs, suits = PROFILES[profile]
    view = probed(standby)
    assert abilities(view) == SOUND | differs
    assert view.suits is suits
    for one in view.capabilities:
        assert one.evidence
        assert one.ability is not MISSING or one.meaning, one
    assert view.seconds < 60
    if suits:
        # One study came, and is here in truth.
        assert standby.missing == len(RECENT) - 3


def test_probe_names_the_kinds_that_a_failback_could_not_give_back(
    standby: Standby, pacs: ForeignPacs
) -> None:
    pacs.behaves(takes=(MRImageStorage,))
    view = probed(standby)
    found = next(one for one in view.capabilities if one.name == "images that it takes")
    assert found.finding == "it refuses CT Image Storage in Explicit VR Little Endian"
    assert "3 images here" in found.meaning


def test_probe_suggests_as_many_associations_as_there_are(standby: Standby, pacs: ForeignPacs) -> None:
    pacs.behaves(associations=3)
    (suggestion,) = probed(standby).suggestions
    assert (suggestion.key, suggestion.value) == ("Primary.Associations", 2)


def test_probe_of_what_is_mirrored_moves_nothing_again(standby: Standby, pacs: ForeignPacs) -> None:
    standby.works(60)
    assert standby.missing == 0
    before = list(pacs.moved)
    view = probed(standby)
    assert abilities(view) == SOUND
    assert pacs.moved == before


def test_later_probe_says_what_changed(standby: Standby, pacs: ForeignPacs) -> None:
    assert standby.appliance.capabilities() is None
    assert probed(standby).changes == []
    assert probed(standby).changes == []
    pacs.behaves(count="none", moves=False)
    view = probed(standby)
    assert view.changes == [
        "counts of images: it counts none (before: it counts the images of a study)",
        "C-MOVE to this standby: no image came (before: its images come here)",
        "C-GET: not asked (before: it gives no image)",
        "storage commitment: not asked (before: it refuses)",
    ]
    assert not view.suits


def test_empty_primary_is_not_known_to_suit(standby: Standby, pacs: ForeignPacs) -> None:
    pacs.kept.clear()
    view = probed(standby)
    assert not view.suits
    assert "nothing shows list of studies, list of images, C-MOVE to this standby" in view.verdict


def test_report_of_a_probe_lists_every_finding(standby: Standby) -> None:
    view = probed(standby)
    (report,) = standby.appliance.reports.glob("*.html")
    text = report.read_text(encoding="utf-8")
    assert view.verdict in text
    assert all(one.name in text for one in view.capabilities)


def test_probe_names_the_calling_title_of_a_primary_that_sends_under_another_one(tmp_path: Path) -> None:
    habits = replace(GOOD, calls_as="ROUTER")
    with ForeignPacs(habits=habits, kept=list(RECENT)) as pacs, standing_by(tmp_path, pacs) as standby:
        view = probed(standby)
    assert abilities(view) == SOUND | {"C-MOVE to this standby": LIMITED}
    assert [(one.key, one.value) for one in view.suggestions] == [("Primary.CallingAeTitles", "ROUTER")]
