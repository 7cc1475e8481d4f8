"""The viewer in a real browser, on what modalities really send: the list, and pixels on the screen."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Page
from pydicom.uid import generate_uid

from tests.browser import Heard, signed_in, visit, wait_for_pixels
from tests.data import Patient, ct_series
from tests.stack import BUILD, Stack, wait_until

pytestmark = pytest.mark.needs("image", "browser")

MARKUP = "<img src=x onerror=alert(1)>"
LONG = "L" * 60
REMOVED = None

ODD: Mapping[str, Mapping[str, str | list[str] | None]] = {
    "without modality": {"Modality": REMOVED},
    "empty modality": {"Modality": ""},
    "without date and time": {"StudyDate": REMOVED, "StudyTime": REMOVED},
    "empty date and time": {"StudyDate": "", "StudyTime": ""},
    "without name": {"PatientName": REMOVED},
    "empty name": {"PatientName": ""},
    "without patient id": {"PatientID": REMOVED},
    "empty patient id": {"PatientID": ""},
    "without study id": {"StudyID": REMOVED},
    "without accession number": {"AccessionNumber": REMOVED},
    "without anything": dict.fromkeys(
        (
            *("Modality", "StudyDate", "StudyTime", "PatientName", "PatientID", "StudyID", "AccessionNumber"),
            *("SeriesNumber", "InstanceNumber", "PatientBirthDate", "PatientSex", "StudyDescription"),
        )
    ),
    "everything empty": dict.fromkeys(
        (
            *("Modality", "StudyDate", "StudyTime", "PatientName", "PatientID", "StudyID", "AccessionNumber"),
            *("SeriesNumber", "InstanceNumber", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
        ),
        "",
    ),
    "unicode name": {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Łukasz^Ωμέγα=山田^太郎=やまだ^たろう",
    },
    "ideographs alone": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "=山田^太郎"},
    "markup": {
        "PatientName": MARKUP,
        "StudyDescription": MARKUP,
        "PatientID": "[/red]<b>",
        "Modality": "<B>",
    },
    "brackets": {"PatientName": "[/red]^[bold]", "AccessionNumber": "[link=x]"},
    "very long": {"PatientName": LONG, "StudyDescription": LONG, "PatientID": LONG},
    "several values": {"PatientName": ["A^One", "B^Two"], "ReferringPhysicianName": ["", "C^Three"]},
    "faulty date": {"StudyDate": "99999999", "StudyTime": "999999"},
}


@dataclass(frozen=True, slots=True)
class Sent:
    """The studies that were sent: a good one of twelve images, and odd ones of one image."""

    study_instance_uid: str
    odd: tuple[str, ...]

    @property
    def studies(self) -> int:
        return 1 + len(self.odd)


def odd_instance(path: Path, changes: Mapping[str, str | list[str] | None]) -> tuple[str, bytes]:
    """Return the UID and bytes of a study of its own, with these attributes changed or removed."""
    instance = pydicom.dcmread(path)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(instance, name, generate_uid())
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    for name, value in changes.items():
        if value is not REMOVED:
            with pydicom.config.disable_value_validation():
                setattr(instance, name, value)
        elif name in instance:
            delattr(instance, name)
    written = io.BytesIO()
    instance.save_as(written, enforce_file_format=True)
    return str(instance.StudyInstanceUID), written.getvalue()


@pytest.fixture(scope="module")
def sent(appliance: Stack, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    folder = tmp_path_factory.mktemp("viewer")
    patient = Patient(patient_id="VIEWER-1", name="Viewed^Good")
    series = ct_series(folder, seed="viewer", instances=12, rows=128, columns=128, patient=patient)
    odd = [odd_instance(series.paths[0], changes) for changes in ODD.values()]
    for content in (*(path.read_bytes() for path in series.paths), *(content for _, content in odd)):
        answer = appliance.client().post("/instances", content=content)
        assert answer.status_code == 200, answer.text
    return Sent(series.study_instance_uid, tuple(uid for uid, _ in odd))


@pytest.fixture(scope="module")
def reader(appliance: Stack) -> tuple[str, str]:
    return appliance.add_user("viewer-reader", "reader")


@pytest.fixture(params=[1280, 390])
def viewer(
    appliance: Stack, reader: tuple[str, str], sent: Sent, request: pytest.FixtureRequest
) -> Iterator[tuple[Page, Heard]]:
    with signed_in(reader, width=request.param, height=900) as (page, heard):
        yield page, heard


def picture(page: Page, name: str) -> None:
    """Keep what the screen shows, for a person to look at."""
    width = (page.viewport_size or {"width": 0})["width"]
    file = BUILD / f"viewer-{name}-{width}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file)


def nothing_went_wrong(page: Page, heard: Heard, appliance: Stack) -> None:
    assert page.get_by_text("went wrong").count() == 0
    assert heard.errors == []
    assert heard.failed == []
    assert heard.hosts == {appliance.https}


def test_study_list_shows_every_study_and_opens_one_with_pixels(
    viewer: tuple[Page, Heard], appliance: Stack, sent: Sent
) -> None:
    page, heard = viewer
    rows = page.locator("tr[data-cy^=studyRow-]")

    def listed() -> None:
        rows.nth(sent.studies - 1).wait_for()

    def opened() -> None:
        listed()
        # Once a session: a visit that is begun again finds it hidden.
        if (notice := page.get_by_role("button", name="Confirm and hide")).is_visible():
            notice.click()
        page.locator(f"tr[data-cy='studyRow-{sent.study_instance_uid}']").click()
        page.get_by_role("button", name="Basic Viewer").click()
        wait_for_pixels(page)

    visit(page, heard, f"{appliance.https}/ohif/", listed)
    picture(page, "list")
    assert rows.count() == sent.studies
    shown = page.locator("[data-cy=study-list-results]").inner_text()
    for text in ("Viewed, Good", "[/red], [bold]", "[/red]<b>", MARKUP, "<B>", "Łukasz, Ωμέγα", LONG):
        assert text in shown
    assert page.locator("img[src=x]").count() == 0
    nothing_went_wrong(page, heard, appliance)

    visit(page, heard, f"{appliance.https}/ohif/", opened)
    assert "Viewed, Good" in page.inner_text("body")
    assert page.locator(".shepherd-element").count() == 0
    picture(page, "study")
    nothing_went_wrong(page, heard, appliance)


def test_study_opens_with_pixels_whatever_it_lacks(
    appliance: Stack, reader: tuple[str, str], sent: Sent
) -> None:
    names = (
        "without anything",
        "everything empty",
        "ideographs alone",
        "several values",
        "markup",
        "faulty date",
    )
    with signed_in(reader) as (page, heard):
        for uid in (sent.odd[list(ODD).index(name)] for name in names):
            address = f"{appliance.https}/ohif/viewer?StudyInstanceUIDs={uid}"
            visit(page, heard, address, lambda: wait_for_pixels(page))
            assert page.locator("img[src=x]").count() == 0
            nothing_went_wrong(page, heard, appliance)


def test_study_list_reads_no_file(appliance: Stack, reader: tuple[str, str], sent: Sent) -> None:
    """What the list asks for is in the index: a row that costs a file is slow where there are many."""

    def reads() -> int:
        log = appliance.compose("logs", "--no-color", "orthanc")
        return log.count("Accessing DICOM tags from storage")

    said = [-1]

    def is_calm() -> bool:
        said.append(reads())
        return said[-1] == said[-2]

    # Orthanc may still be answering what the test before had asked for.
    wait_until(is_calm, bool, deadline=60, what="no read any more", pause=2)
    with signed_in(reader) as (page, heard):
        rows = page.locator("tr[data-cy^=studyRow-]")
        visit(page, heard, f"{appliance.https}/ohif/", lambda: rows.first.wait_for())
    assert reads() == said[-1]


def test_console_says_in_words_that_the_agent_is_down(appliance: Stack, reader: tuple[str, str]) -> None:
    address = f"{appliance.https}/understudy/console/"
    appliance.stop("agent")
    try:
        with signed_in(reader) as (page, heard):
            visit(
                page, heard, address, lambda: page.get_by_text("The agent does not answer").first.wait_for()
            )
            assert "Images are received and shown all the same." in page.inner_text("body")
            assert page.locator("a[href='/ohif/']").count() == 1
        answer = appliance.client(reader).get("/understudy/status")
        assert answer.status_code == 503
        assert answer.json()["error"] == "agent_unavailable"
    finally:
        appliance.start("agent")
    with signed_in(reader) as (page, heard):
        visit(page, heard, address, page.locator("#facts .value").first.wait_for)
