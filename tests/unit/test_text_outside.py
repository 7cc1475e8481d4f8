"""Text is text in what leaves by other ways than the command: logs, reports, metrics."""

import dataclasses
import html
import logging
import re
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from understudy.agent import OneLine
from understudy.core.model import HolderName
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.text import visible
from understudy.web.metrics import render
from understudy.web.report import render_report

from tests.unit.test_cli_text import HOSTILE
from tests.unit.web_fakes import NOW, STATUS

EVERY = pytest.mark.parametrize("text", [*HOSTILE.values(), "<script>x</script>", '"><img src=x>'])


@EVERY
def test_log_has_one_line_a_record(text: str) -> None:
    formatter = OneLine("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "device=%s", (text,), None)
    line = formatter.format(record)
    assert line.startswith("INFO device=")
    assert line == visible(line)
    try:
        raise ValueError(text)
    except ValueError:
        failed = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", (), sys.exc_info())
    line = formatter.format(failed)
    assert line == visible(line)
    assert " | ValueError: " in line


@EVERY
def test_report_shows_hostile_values_as_text(text: str) -> None:
    report = Report(
        title=text,
        site=text,
        kind=text,
        started=NOW,
        finished=NOW,
        succeeded=False,
        outcome=text,
        summary=[ReportRow(text, text)],
        hints=[text],
        tables=[ReportTable(text, [text], [[text]])],
        details=[text],
    )
    page = render_report(report)
    assert html.escape(visible(text)) in page
    assert "<script" not in page
    assert "<img" not in page
    assert [line for line in page.split("\n") if line != visible(line) and "<style>" not in line] == []


@EVERY
def test_label_of_a_metric_is_text(text: str) -> None:
    named = dataclasses.replace(STATUS.holders[0], name=HolderName(text))
    shown = render(dataclasses.replace(STATUS, holders=[named], version=text)).decode()
    holders = {
        sample.labels["holder"]
        for family in text_string_to_metric_families(shown)
        for sample in family.samples
        if "holder" in sample.labels
    }
    assert holders == {text}
    assert not re.search(r"^FORGED", shown, re.MULTILINE)
