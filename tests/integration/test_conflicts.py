"""Two contents under one SOP Instance UID, an hour and a millisecond apart: both are kept and come out."""

import hashlib
import io
import random
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from tests import data
from tests.integration.edge_peers import associated
from tests.stack import Stack, wait_until

pytestmark = pytest.mark.needs("image")

NO_ANSWER = 0xFFFF
STORAGE = "/var/lib/orthanc/storage"
SEPARATOR = "understudy-test"
Send = Callable[[FileDataset], int]
"""Returns 0 where the instance was acknowledged, else the status."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conflicts")
    return data.ct_series(folder, seed="conflicts", instances=1, rows=128, columns=128).paths[0]


@pytest.fixture(autouse=True)
def at_peace(appliance: Stack) -> None:
    """Each test begins with everything vaulted."""
    vaulted(appliance)


def version(template: Path, uid: str, number: int) -> FileDataset:
    """Return one content under the UID: the same number makes the same bytes."""
    dataset = pydicom.dcmread(template)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    pixels = bytearray(dataset.PixelData)
    pixels[:16] = random.Random(number).randbytes(16)
    dataset.PixelData = bytes(pixels)
    return dataset


def as_file(dataset: FileDataset) -> bytes:
    output = io.BytesIO()
    dataset.save_as(output, enforce_file_format=True)
    return output.getvalue()


def content_of(dataset: FileDataset) -> str:
    return hashlib.sha256(dataset.PixelData).hexdigest()


def content_in(file: bytes) -> str:
    """Return the content of a stored file, whose head Orthanc may have written again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hashlib.sha256(pydicom.dcmread(io.BytesIO(file)).PixelData).hexdigest()


@contextmanager
def association(appliance: Stack, template: Path, calling: str = "CT1") -> Iterator[Association]:
    entity = AE(calling)
    dataset = pydicom.dcmread(template, stop_before_pixels=True)
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    opened = associated(entity, appliance.dicom)
    assert opened.is_established
    try:
        yield opened
    finally:
        opened.release()


def by_c_store(opened: Association) -> Send:
    def send(dataset: FileDataset) -> int:
        return int(opened.send_c_store(dataset).get("Status", NO_ANSWER))

    return send


def by_rest(appliance: Stack) -> Send:
    client = appliance.client()

    def send(dataset: FileDataset) -> int:
        headers = {"Content-Type": "application/dicom"}
        status = client.post("/instances", content=as_file(dataset), headers=headers).status_code
        return 0 if status == 200 else status

    return send


def by_stow(appliance: Stack) -> Send:
    client = appliance.client()
    kind = f'multipart/related; type="application/dicom"; boundary={SEPARATOR}'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}

    def send(dataset: FileDataset) -> int:
        head = f"--{SEPARATOR}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + as_file(dataset) + f"\r\n--{SEPARATOR}--\r\n".encode()
        status = client.post("/dicom-web/studies", content=body, headers=headers).status_code
        return 0 if status == 200 else status

    return send


@dataclass(slots=True)
class Race:
    """Sends contents at chosen moments and remembers which were acknowledged."""

    acknowledged: Counter[str]
    refused: list[int]

    def run(self, stores: Sequence[tuple[Send, FileDataset, float]]) -> None:
        """Send each content that many seconds after a common start."""
        start = threading.Barrier(len(stores))

        def store(send: Send, dataset: FileDataset, delay: float) -> None:
            start.wait()
            time.sleep(delay)
            status = send(dataset)
            if status == 0:
                self.acknowledged[content_of(dataset)] += 1
            else:
                self.refused.append(status)

        threads = [threading.Thread(target=store, args=one) for one in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(180)
        assert not any(thread.is_alive() for thread in threads), "the stores were not answered within 180 s"


def conflicts(appliance: Stack, uid: str) -> list[dict[str, object]]:
    found = appliance.get(f"/understudy/conflicts?everything=true&sop_instance_uid={uid}")
    assert isinstance(found, list)
    return found


def retrieved(appliance: Stack, uid: str) -> dict[str, bytes]:
    """Return every version of the instance that an operator gets, by its MD5, each of that MD5."""
    files = {}
    for conflict in conflicts(appliance, uid):
        for side in (conflict["earlier"], conflict["later"]):
            assert isinstance(side, dict)
            path = f"/understudy/conflicts/{conflict['conflict']}/versions/{side['md5']}"
            answer = appliance.client().get(path)
            assert answer.status_code == 200, answer.text
            assert hashlib.md5(answer.content).hexdigest() == side["md5"]
            files[side["md5"]] = answer.content
    return files


def contents(appliance: Stack, uid: str) -> set[str]:
    return {content_in(file) for file in retrieved(appliance, uid).values()}


def shown(appliance: Stack, uid: str) -> bytes:
    """Return the file that Orthanc shows for the UID."""
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": uid}}
    (found,) = appliance.client().post("/tools/find", json=query).json()
    answer = appliance.client().get(f"/instances/{found}/file")
    assert answer.status_code == 200
    return answer.content


def vaulted(appliance: Stack) -> None:
    wait_until(
        appliance.status,
        lambda state: all(counts.unproven == 0 for counts in state.holders.values()),
        deadline=180,
        what="everything vaulted",
    )


def counts_right(appliance: Stack) -> None:
    """The ledger's present instances are those of Orthanc, and every version is proven in the vault."""

    def counts() -> list[tuple[int, int, int]]:
        """Return for each vault what Orthanc and the ledger have, and what is proven there."""
        held, state = appliance.get("/statistics")["CountInstances"], appliance.status()
        return [(held, state.instances, holder.proven) for holder in state.holders.values()]

    vaulted(appliance)
    wait_until(
        counts,
        lambda seen: all(held == known == proven for held, known, proven in seen),
        deadline=180,
        what="the same number at Orthanc, in the ledger and in every vault",
    )


def proven_in_vaults(appliance: Stack, uid: str) -> list[int]:
    """Return for each vault how many versions of the instance it is proven to have."""
    proven = appliance.get("/understudy/obligations?state=proven&limit=10000")
    found = Counter(row["holder"] for row in proven if row["sop_instance_uid"] == uid)
    return [found[holder] for holder in appliance.status().holders]


def test_other_content_an_hour_later_leaves_both_retrievable(appliance: Stack, template: Path) -> None:
    uid = generate_uid()
    first, second = (version(template, uid, number) for number in (1, 2))
    send = by_rest(appliance)
    assert send(first) == 0
    wait_until(
        lambda: proven_in_vaults(appliance, uid), lambda seen: min(seen) == 1, deadline=180, what="vaulted"
    )
    assert send(second) == 0
    wait_until(lambda: conflicts(appliance, uid), bool, deadline=90, what="the conflict shown")
    assert set(retrieved(appliance, uid).values()) == {as_file(first), as_file(second)}
    assert shown(appliance, uid) == as_file(second)
    wait_until(
        lambda: proven_in_vaults(appliance, uid), lambda seen: min(seen) == 2, deadline=180, what="vaulted"
    )
    counts_right(appliance)


def test_conflict_shows_digests_senders_and_kind_and_is_exported_and_closed(
    appliance: Stack, template: Path
) -> None:
    uid = generate_uid()
    first, second = (version(template, uid, number) for number in (1, 2))
    with association(appliance, template, calling="CT1") as opened:
        assert by_c_store(opened)(first) == 0
    with association(appliance, template, calling="MR1") as opened:
        assert by_c_store(opened)(second) == 0
    (conflict,) = wait_until(
        lambda: conflicts(appliance, uid),
        lambda seen: bool(seen) and seen[0]["kind"] == "content",
        deadline=90,
        what="the conflict compared",
    )
    earlier, later = conflict["earlier"], conflict["later"]
    assert isinstance(earlier, dict)
    assert isinstance(later, dict)
    assert (earlier["sender"], earlier["present"]) == ("CT1", False)
    assert (later["sender"], later["present"]) == ("MR1", True)
    assert any("two different contents" in alarm for alarm in appliance.status().alarms)

    appliance.execute("agent", "understudy", "conflicts", "--export", uid, f"/tmp/{uid}")
    files = appliance.shell("agent", f"cd /tmp/{uid} && md5sum *.dcm")
    assert {tuple(line.split()) for line in files.splitlines()} == {
        (side["md5"], f"{side['md5']}.dcm") for side in (earlier, later)
    }
    number = str(conflict["conflict"])
    appliance.execute("agent", "understudy", "conflicts", "--acknowledge", number, "--reason", "a test")
    (closed,) = conflicts(appliance, uid)
    assert (closed["unresolved"], closed["reason"]) == (False, "a test")
    assert contents(appliance, uid) == {content_of(first), content_of(second)}


def test_same_content_again_is_one_instance_and_no_conflict(appliance: Stack, template: Path) -> None:
    uid = generate_uid()
    before = appliance.get("/statistics")["CountInstances"]
    file = version(template, uid, 1)
    for send in (by_rest(appliance), by_stow(appliance), by_rest(appliance)):
        assert send(file) == 0
    with association(appliance, template) as opened:
        # Orthanc writes another head: other bytes, and the same in substance.
        assert by_c_store(opened)(file) == 0
        assert by_c_store(opened)(file) == 0
    (conflict,) = wait_until(
        lambda: conflicts(appliance, uid),
        lambda seen: bool(seen) and seen[0]["kind"] != "unjudged",
        deadline=90,
        what="the two heads compared",
    )
    assert (conflict["kind"], conflict["unresolved"]) == ("head", False)
    assert appliance.get("/statistics")["CountInstances"] == before + 1
    counts_right(appliance)


PAIRS = (
    ("c_store", "c_store"),
    ("c_store", "rest"),
    ("rest", "c_store"),
    ("rest", "stow"),
    ("stow", "c_store"),
    ("c_store", "stow"),
)
DELAYS = (0.0, 0.0005, 0.001, 0.002, 0.004)


def test_thirty_races_a_millisecond_apart_lose_nothing_acknowledged(appliance: Stack, template: Path) -> None:
    """Five rounds of each of six pairs; the vault is waited for once."""
    sent: dict[str, tuple[str, Counter[str]]] = {}
    with association(appliance, template) as one, association(appliance, template, "MR1") as other:
        ways = [
            {"c_store": by_c_store(opened), "rest": by_rest(appliance), "stow": by_stow(appliance)}
            for opened in (one, other)
        ]
        for pair in PAIRS:
            for number, delay in enumerate(DELAYS):
                uid, named = str(generate_uid()), f"{'-'.join(pair)} {delay} s"
                race = Race(Counter(), [])
                first, second = version(template, uid, 2 * number), version(template, uid, 2 * number + 1)
                race.run([(ways[0][pair[0]], first, 0.0), (ways[1][pair[1]], second, delay)])
                assert not race.refused, named
                assert len(race.acknowledged) == 2, named
                sent[uid] = named, race.acknowledged
    for uid, (named, acknowledged) in sent.items():
        found = wait_until(
            lambda uid=uid: contents(appliance, uid),  # type: ignore[misc]
            lambda seen, wanted=set(acknowledged): seen >= wanted,  # type: ignore[misc]
            deadline=90,
            what=f"both contents of {named} retrievable",
        )
        assert found == set(acknowledged), named
        assert content_in(shown(appliance, uid)) in acknowledged, named
        wait_until(
            lambda uid=uid: proven_in_vaults(appliance, uid),  # type: ignore[misc]
            lambda seen: min(seen) == 2,
            deadline=180,
            what=f"both versions of {named} in every vault",
        )
    counts_right(appliance)


def test_eight_associations_on_three_uids_neither_stop_nor_lose(appliance: Stack, template: Path) -> None:
    uids = [generate_uid() for _ in range(3)]
    race = Race(Counter(), [])
    rounds = 10
    began = time.monotonic()
    opened = ExitStack()
    sends = [by_c_store(opened.enter_context(association(appliance, template))) for _ in range(8)]

    def store(number: int, dataset: FileDataset) -> int:
        """Send it, and again over a new association where no answer came, as modalities do."""
        status = sends[number](dataset)
        if status == NO_ANSWER:
            sends[number] = by_c_store(opened.enter_context(association(appliance, template)))
            status = sends[number](dataset)
        return status

    def series(number: int) -> Send:
        """Send ten contents of the three UIDs, each followed by an instance that nobody disputes."""

        def send(_: FileDataset) -> int:
            for turn in range(rounds):
                content = version(template, uids[turn % 3], 1000 + rounds * number + turn)
                for dataset in (content, version(template, generate_uid(), turn)):
                    status = store(number, dataset)
                    if status:
                        race.refused.append(status)
                    elif dataset is content:
                        race.acknowledged[content_of(content)] += 1
            return 0

        return send

    with opened:
        anything = version(template, uids[0], 0)
        runner = Race(Counter(), [])
        runner.run([(series(number), anything, 0.0) for number in range(8)])
    took = time.monotonic() - began
    print(f"160 stores on 8 associations, 80 of them on 3 UIDs: {took:.1f} s")
    assert not race.refused
    assert len(race.acknowledged) == 80
    wait_until(
        lambda: set().union(*(contents(appliance, uid) for uid in uids)),
        lambda seen: seen == set(race.acknowledged),
        deadline=180,
        what="all eighty contents retrievable",
        pause=1,
    )
    counts_right(appliance)


def attachment(appliance: Stack, uid: str) -> str:
    """Return where Orthanc keeps the file of the instance, in its container."""
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": uid}}
    (found,) = appliance.client().post("/tools/find", json=query).json()
    uuid = appliance.get(f"/instances/{found}/attachments/dicom/info")["Uuid"]
    return f"{STORAGE}/{uuid[0:2]}/{uuid[2:4]}/{uuid}"


@pytest.mark.parametrize(
    "damage", ["rm {}", "truncate --size 1000 {}", "printf XXXX | dd of={} bs=1 seek=9000 conv=notrunc"]
)
@pytest.mark.parametrize("way", ["c_store", "rest"])
def test_sending_again_heals_a_missing_or_damaged_file(
    appliance: Stack, template: Path, damage: str, way: str
) -> None:
    uid = generate_uid()
    dataset = version(template, uid, 1)
    with association(appliance, template) as opened:
        send = {"c_store": by_c_store(opened), "rest": by_rest(appliance)}[way]
        assert send(dataset) == 0
        file = attachment(appliance, uid)
        right = appliance.shell("orthanc", f"md5sum <{file}")
        wait_until(
            lambda: proven_in_vaults(appliance, uid),
            lambda seen: min(seen) == 1,
            deadline=180,
            what="vaulted",
        )
        appliance.shell("orthanc", damage.format(file) + " 2>/dev/null")
        assert send(dataset) == 0
    assert appliance.shell("orthanc", f"md5sum <{file}") == right
    assert content_in(shown(appliance, uid)) == content_of(dataset)
    assert attachment(appliance, uid) == file
    assert conflicts(appliance, uid) == []
    counts_right(appliance)


def test_a_version_that_cannot_be_kept_is_not_replaced(appliance: Stack, template: Path) -> None:
    uid = generate_uid()
    first, second = (version(template, uid, number) for number in (1, 2))
    with association(appliance, template) as opened:
        ways = {"c_store": by_c_store(opened), "rest": by_rest(appliance), "stow": by_stow(appliance)}
        assert ways["rest"](first) == 0
        folder = f"{STORAGE}/understudy/versions"
        appliance.shell("orthanc", f"mkdir -p {folder} && chmod 0500 {folder}")
        try:
            statuses = {way: send(second) for way, send in ways.items()}
        finally:
            appliance.shell("orthanc", f"chmod 0750 {folder}")
        assert statuses["c_store"] == 0xA700
        assert statuses["rest"] == 500
        assert statuses["stow"] != 0
        assert shown(appliance, uid) == as_file(first)
        # Nothing else was refused meanwhile, and nothing is refused afterwards.
        assert ways["c_store"](version(template, generate_uid(), 3)) == 0
        assert ways["c_store"](second) == 0
    wait_until(
        lambda: contents(appliance, uid),
        lambda seen: seen == {content_of(first), content_of(second)},
        deadline=90,
        what="both contents retrievable",
    )
