"""Intake: why images are refused, as people are told."""

import pytest
from understudy.core.ports import OrthancUnavailableError
from understudy.core.views import Urgency, iso
from understudy.flow.intake import IntakeWatch

from tests.unit.fakes import NOW, Clock


class Storing:
    """An Orthanc that refuses stores, or does not answer."""

    def __init__(self) -> None:
        self.refuses = False
        self.silent = False

    def refuses_stores(self) -> bool:
        if self.silent:
            raise OrthancUnavailableError("ConnectError at GET /tools/metrics-prometheus")
        return self.refuses


@pytest.mark.parametrize(
    ("fault", "why"), [("refuses", "writes to the disk fail"), ("silent", "Orthanc does not answer")]
)
def test_intake_that_is_refused_is_an_urgent_steady_alarm_until_it_works(fault: str, why: str) -> None:
    orthanc, clock = Storing(), Clock()
    watch = IntakeWatch(orthanc, lambda: False, clock)
    watch.step()
    assert (watch.refused_because, watch.alarms()) == ("", [])
    setattr(orthanc, fault, True)
    for _ in range(3):
        watch.step()
        (alarm,) = watch.alarms()
        assert (alarm.since, alarm.urgency) == (iso(NOW), Urgency.NOW)
        assert why in alarm.what
        assert why in watch.refused_because
        clock.advance(5)
    setattr(orthanc, fault, False)
    watch.step()
    assert (watch.refused_because, watch.alarms()) == ("", [])


def test_full_disk_is_told_at_once_by_its_mark() -> None:
    full = [False]
    watch = IntakeWatch(Storing(), lambda: full[0], Clock())
    watch.step()
    full[0] = True
    assert watch.refused_because == "a disk is full"
    assert watch.alarms() == [], "it has an alarm of its own"
