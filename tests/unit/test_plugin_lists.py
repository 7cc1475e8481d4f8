"""No call makes Orthanc build a list that takes the memory of everybody else."""

from collections.abc import Mapping

import pytest
from understudy.plugin.lists import MOST_IDENTIFIERS, MOST_RESULTS, refusal


def refused(path: str, arguments: Mapping[str, str], held: int = 1_000_000) -> bool:
    return refusal(path, arguments, lambda _resources: held) is not None


@pytest.mark.parametrize("path", ["/patients", "/studies", "/series", "/instances", "/instances/"])
def test_identifiers_of_a_large_archive_are_given_in_pages(path: str) -> None:
    assert refused(path, {})
    assert refused(path, {"limit": str(MOST_IDENTIFIERS + 1), "since": "0"})
    assert not refused(path, {"limit": str(MOST_IDENTIFIERS), "since": "90000"})
    assert not refused(path, {}, held=MOST_IDENTIFIERS)
    assert refused(path, {}, held=MOST_IDENTIFIERS + 1)


@pytest.mark.parametrize("how", ["expand", "Expand", "full", "short", "requestedTags", "requested-tags"])
def test_expanded_resources_are_given_in_smaller_pages(how: str) -> None:
    assert refused("/studies", {how: ""}, held=MOST_RESULTS + 1)
    assert not refused("/studies", {how: ""}, held=MOST_RESULTS)
    assert refused("/studies", {how: "", "limit": str(MOST_RESULTS + 1)}, held=1)
    assert not refused("/studies", {how: "", "limit": str(MOST_RESULTS)})


@pytest.mark.parametrize("path", [f"/dicom-web/{what}" for what in ("studies", "series", "instances")])
def test_qido_results_are_given_in_pages(path: str) -> None:
    assert refused(path, {"PatientName": "*"})
    assert refused(path, {"limit": "501"})
    assert not refused(path, {"limit": "101", "offset": "0", "includefield": "all"})


@pytest.mark.parametrize("limit", ["0", "-1", "1e3", "5 ", "", "٣", "99999999999", "0x10", "+5"])
def test_limit_that_orthanc_may_read_as_none_is_refused(limit: str) -> None:
    assert refused("/dicom-web/studies", {"limit": limit})
    assert refused("/studies", {"limit": limit}, held=1)


def test_two_spellings_of_one_limit_are_refused() -> None:
    assert refused("/studies", {"limit": "5", "LIMIT": "1000000"}, held=1)


def test_changes_come_by_the_hundred_unless_more_are_asked_for() -> None:
    assert not refused("/changes", {})
    assert not refused("/changes", {"limit": "5000"})
    assert refused("/changes", {"limit": "1000000"})


@pytest.mark.parametrize(
    "path", ["/studies/x", "/dicom-web/studies/1.2/instances", "/system", "/dicom-web/studies/1.2/series"]
)
def test_what_belongs_to_one_study_is_no_long_list(path: str) -> None:
    assert not refused(path, {"expand": ""})


def test_refusal_says_how_to_ask() -> None:
    told = refusal("/dicom-web/studies", {}, {"studies": 66606}.__getitem__)
    assert told == "the list has up to 66606 entries: ask with limit=500 and offset=0, 500, ..."
