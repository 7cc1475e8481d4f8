"""An image is corrected in an outage: the stock primary takes it, commits to it, and keeps the first."""

from pathlib import Path

import pydicom
import pytest

from tests import data
from tests.lab import PRIMARY, STANDBY, Lab
from tests.stack import wait_until

pytestmark = pytest.mark.needs("image", "lab-image", "s3-image")

DESCRIPTION = "corrected in the outage"


def corrected(series: data.Series, folder: Path) -> Path:
    """Return the series' only image with another description, under the same UIDs."""
    (path,) = series.paths
    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = DESCRIPTION
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / path.name)
    return folder


def test_correction_that_the_primary_drops_is_a_dead_letter_and_named_when_it_is_waived(lab: Lab) -> None:
    series = data.ct_series(lab.data / "correction", seed="correction", instances=1, rows=64, columns=64)
    (uid,) = series.sop_instance_uids
    lab.send_all(series.paths[0].parent, calling="CT1", to=PRIMARY)
    wait_until(
        lab.status, lambda seen: seen.holders["primary"].proven == 1, deadline=180, what="the image forwarded"
    )
    lab.promote("a test of corrections", force=True)
    lab.send_all(corrected(series, lab.data / "corrected"), calling="CT1", to=STANDBY)
    wait_until(
        lab.status, lambda seen: seen.holders["primary"].owed == 1, deadline=180, what="the correction owed"
    )
    number = lab.failback()
    state = wait_until(
        lab.status,
        lambda seen: seen.holders["primary"].refused == 1,
        deadline=180,
        what="the correction refused",
    )
    assert state.mode == "returning"
    (letter,) = lab.get("/understudy/dead-letters")
    assert letter["sop_instance_uid"] == uid
    assert "the instance that it gives back differs from the sent one" in letter["reason"]
    # It took it, and kept what it had.
    (kept,) = [copy for copy in lab.copies_at_primary() if copy.sop_instance_uid == uid]
    assert DESCRIPTION.encode() not in kept.content
    waiver = {"holder": "primary", "sop_instance_uids": [uid], "reason": "mended at the PACS by hand"}
    lab.post("/understudy/obligations/waive", {**waiver, "epoch": state.epoch})
    done = lab.finished(number, deadline=180)
    assert "of this outage, and 1 other was waived" in done["message"]
    assert lab.settled(deadline=180).mode == "standby"
