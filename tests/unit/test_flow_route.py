"""Routes over real files and a real ledger: what an instance owes, and what the dry run says of it."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID
from understudy.adapters import dictionary
from understudy.adapters.storage import StorageArea
from understudy.config import parse
from understudy.core.errors import NotFoundError
from understudy.core.gate import GateOutcome, Seen
from understudy.core.model import NewInstance, StudyInstanceUid
from understudy.core.ports import HolderUnavailableError
from understudy.core.rules import Matching, RouteDestination, RoutingRule, Rules
from understudy.core.views import ExplanationView
from understudy.flow.route import Router
from understudy.ledger import Ledger

from tests.unit.fakes import NOW, PRIMARY, PRIMARY_AE, ROUTE, STUDY, VAULT, new_instance, note

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


class Bench:
    """A storage area, a ledger and routes."""

    def __init__(self, root: Path) -> None:
        self.storage = root / "storage"
        self.storage.mkdir()
        self.ledger = Ledger(root / "ledger.sqlite")
        self.ledger.modes.start(NOW)

    def store(self, name: int, **attributes: object) -> NewInstance:
        """Store a file with these attributes, as Orthanc does, and note it as owed to nobody."""
        dataset = Dataset()
        dataset.SOPInstanceUID, dataset.PatientName = f"1.2.3.4.{name}", "Nobody^Knows"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        nested = Dataset()
        nested.StationName = "NESTED"
        dataset.ReferencedImageSequence = Sequence([nested])
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        uuid = f"0a0b0c0d-0000-4000-8000-{name:012}"
        path = self.path(uuid)
        path.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(path, dataset, enforce_file_format=True)
        content = path.read_bytes()
        instance = replace(
            new_instance(name, attachment=uuid),
            size=len(content),
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
            transfer_syntax_uid=EXPLICIT,
        )
        note(self.ledger, instance, owed=[])
        return instance

    def path(self, uuid: str) -> Path:
        return self.storage / uuid[:2] / uuid[2:4] / uuid

    def router(self, *conditions: dict[str, object], addresses: list[str] | None = None) -> Router:
        """Return a router of one route a condition, all to one destination."""
        routes = [{"Name": f"r{n}", "When": [one], "To": ["archive"]} for n, one in enumerate(conditions)]
        archive = {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "archive"}
        loaded = parse({"Routes": routes, "Destinations": [archive]})
        rules = Rules(
            PRIMARY,
            frozenset({PRIMARY_AE}),
            [VAULT],
            [RoutingRule(one.name, [item.compiled() for item in one.when], [ROUTE]) for one in loaded.routes],
            {ROUTE: RouteDestination(ROUTE, "ARCHIVE", addresses or [])},
            Matching.ALL,
        )
        files = StorageArea(self.storage)
        return Router(rules, self.ledger, files, zone=UTC, names_patient=dictionary.names_patient)

    def explain(self, *conditions: dict[str, object]) -> ExplanationView:
        (found,) = self.router(*conditions).explain(STUDY).explanations
        assert found.unread == ""
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.ledger.close()


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ({"Of": "StationName", "Equals": "ER1"}, ["ER1"]),
        ({"Of": "ImageType", "Equals": "AXIAL"}, ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ({"Of": "InstanceNumber", "Regex": "^1?7$"}, ["7"]),
        ({"Of": "Rows", "In": ["512", "1024"]}, ["512"]),
        ({"Of": "StudyDate", "Regex": "^2026"}, ["20260302"]),
        ({"Of": "InstitutionName", "Equals": "Spital Süd"}, ["Spital Süd"]),
        ({"Of": "ProtocolName", "Equals": "x", "Not": True}, []),
        ({"Of": "BodyPartExamined", "Equals": "x", "Not": True}, []),
    ],
)
def test_attribute_of_the_file_decides_and_is_shown(
    bench: Bench, condition: dict[str, object], values: list[str]
) -> None:
    bench.store(
        1,
        SpecificCharacterSet="ISO_IR 192",
        StationName="ER1 ",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        InstanceNumber=7,
        Rows=512,
        StudyDate="20260302",
        InstitutionName="Spital Süd",
        BodyPartExamined="",
    )
    found = bench.explain(condition)
    assert found.owed == [VAULT, ROUTE, PRIMARY]
    assert found.routes[0].conditions[0].values == values


def test_attribute_of_a_sequence_item_does_not_count(bench: Bench) -> None:
    bench.store(1)
    assert bench.explain({"Of": "StationName", "Equals": "NESTED"}).owed == [VAULT, PRIMARY]


def test_value_that_tells_of_the_patient_is_not_shown(bench: Bench) -> None:
    bench.store(1, PatientID="4711", ReferringPhysicianName="Doctor^Who", AccessionNumber="A1")
    found = bench.explain(
        {"Of": "PatientID", "Equals": "4711"},
        {"Of": "ReferringPhysicianName", "Regex": "Who"},
        {"Of": "PatientName", "Regex": "Nobody"},
    )
    assert all(route.matches for route in found.routes)
    assert "4711" not in repr(found).replace("is 4711", "")
    assert "Doctor" not in repr(found)
    assert "Knows" not in repr(found)


def test_route_that_does_not_match_says_which_condition_and_what_it_met(bench: Bench) -> None:
    bench.store(1, StationName="CT1")
    (route,) = bench.explain({"Of": "StationName", "Regex": "^ER"}).routes
    assert (route.matches, route.because) == (False, "1 of 1 conditions do not hold")
    (condition,) = route.conditions
    assert (condition.asks, condition.values, condition.holds) == (
        "StationName fits the pattern ^ER",
        ["CT1"],
        False,
    )


def test_instances_that_fare_the_same_are_told_together(bench: Bench) -> None:
    for name in range(5):
        bench.store(name, StationName="ER1" if name < 3 else "CT1")
    found = bench.router({"Of": "StationName", "Equals": "ER1"}).explain(STUDY)
    assert found.instances == 5
    assert sorted((one.instances, ROUTE in one.owed) for one in found.explanations) == [(2, False), (3, True)]


def test_study_that_is_not_here_is_not_explained(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        bench.router().explain(StudyInstanceUid("1.2.9"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "its stored file is gone"),
        (lambda path: path.write_bytes(b"x" * 200), "its stored file cannot be parsed: InvalidDicomError"),
    ],
)
def test_file_that_cannot_be_read_matches_no_attribute_and_is_told(
    bench: Bench, damage: object, told: str
) -> None:
    instance = bench.store(1, StationName="ER1")
    bench.store(2, StationName="CT1")
    assert callable(damage)
    damage(bench.path(instance.attachment_uuid))
    router = bench.router({"Of": "StationName", "Equals": "ER1"})
    debts, unread = router.owed(instance)
    assert ([debt.holder for debt in debts], unread) == ([VAULT, PRIMARY], told)
    assert told in {one.unread for one in router.explain(STUDY).explanations}


def test_deflated_file_is_not_inflated(bench: Bench) -> None:
    instance = bench.store(1, StationName="ER1")
    router = bench.router({"Of": "StationName", "Equals": "ER1"})
    _, unread = router.owed(replace(instance, transfer_syntax_uid=DEFLATED))
    assert unread == "its stored file is deflated: it is not looked into"


def test_volume_that_is_not_there_decides_nothing(bench: Bench, tmp_path: Path) -> None:
    instance = bench.store(1, StationName="ER1")
    bench.storage.rename(tmp_path / "elsewhere")
    with pytest.raises(HolderUnavailableError):
        bench.router({"Of": "StationName", "Equals": "ER1"}).owed(instance)


def test_source_address_is_the_one_that_the_edge_saw_last(bench: Bench) -> None:
    instance = bench.store(1)
    asked: dict[str, object] = {"Of": "SourceAddress", "In": ["192.0.2.64/26"]}
    assert bench.explain(asked).routes[0].conditions[0].values == []
    for now, address, outcome in (
        (NOW, "192.0.2.1", GateOutcome.ACCEPTED),
        (NOW + 1, "192.0.2.70", GateOutcome.ACCEPTED),
        (NOW + 2, "192.0.2.2", GateOutcome.REFUSED_CALLING),
    ):
        seen = Seen(instance.calling_ae_title, instance.called_ae_title, address, tls=False, outcome=outcome)
        bench.ledger.devices.note_seen([seen], type(NOW)(now))
    assert bench.explain(asked).routes[0].conditions[0].values == ["192.0.2.70"]
    assert bench.explain(asked).owed == [VAULT, ROUTE, PRIMARY]


def test_what_came_from_the_destinations_address_is_not_sent_back_and_says_so(bench: Bench) -> None:
    instance = bench.store(1)
    seen = Seen(
        instance.calling_ae_title, instance.called_ae_title, "192.0.2.70", False, GateOutcome.ACCEPTED
    )
    bench.ledger.devices.note_seen([seen], NOW)
    router = bench.router({"Of": "Modality", "Equals": "CT"}, addresses=["192.0.2.70/32"])
    (found,) = router.explain(STUDY).explanations
    assert found.owed == [VAULT, PRIMARY]
    (destination,) = found.routes[0].destinations
    assert (destination.owed, destination.because) == (False, "it came from its address 192.0.2.70")
