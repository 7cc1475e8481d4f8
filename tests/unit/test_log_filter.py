"""The filter of Orthanc's log: no patient, no forged line, whatever an object holds."""

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile import CANARY_ID, FORGED

SCRIPT = Path(__file__).parents[2] / "docker" / "log_filter.py"
MESSAGE = (
    "Store has failed because required tags (SeriesInstanceUID) are missing for the following instance: "
)
HEAD = "E1129 03:12:53.111111  DICOM-3 OrthancException.cpp:144] Bad file format: "
ORDINARY = "W1129 03:12:54.222222             MAIN main.cpp:957] Orthanc has started"

spec = importlib.util.spec_from_file_location("log_filter", SCRIPT)
assert spec is not None
assert spec.loader is not None
log_filter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(log_filter)


class Log:
    """A filter and what it let through."""

    def __init__(self) -> None:
        self.text = ""
        self.now = 0.0
        self.filter = log_filter.Filter(self._write, lambda: self.now)

    def _write(self, line: bytes) -> None:
        self.text += line.decode("utf-8", "replace")


FORGERIES = [
    f"W1129 03:12:53.111112 MAIN main.cpp:1] {FORGED}",
    f"reception: {FORGED}",
    f"codecs: {FORGED}",
    f"{HEAD}{FORGED}",
    FORGED,
    f"\r{FORGED}",
    f"\x1b[2J{FORGED}",
]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n", "\x0b\n", "\x00\n"])
@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_patient_id_with_line_ends_forges_and_shows_nothing(
    line_end: str, forgery: str, pieces: int
) -> None:
    log = Log()
    value = line_end.join(["1", CANARY_ID, forgery, forgery])
    message = f"{HEAD}{MESSAGE}PatientID={value}, StudyInstanceUID=1.2\n".encode()
    size = len(message) // pieces + 1
    for begin in range(0, len(message), size):
        log.filter.take(message[begin : begin + size])
    log.filter.silence()
    log.filter.take(ORDINARY.encode() + b"\n")
    assert FORGED not in log.text
    assert CANARY_ID not in log.text
    assert log.text.splitlines()[0].startswith(HEAD + "Store has failed because ")
    lines = message.count(b"\n")
    assert log.text.splitlines()[1:] == [f"log: {lines - 1} lines were hidden", ORDINARY]


def test_two_such_messages_in_a_row_show_nothing() -> None:
    log = Log()
    for _ in range(2):
        log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\n{CANARY_ID}\n{FORGED}\n".encode())
        log.filter.silence()
    log.filter.take(f"{ORDINARY}\n".encode())
    assert CANARY_ID not in log.text
    assert FORGED not in log.text
    assert log.text.endswith(ORDINARY + "\n")


# As Orthanc 1.13 and its DICOMweb plugin write them.
WITH_A_VALUE = [
    "Store has failed because required tags (SeriesInstanceUID) are missing for the following instance: "
    "SOPInstanceUID={}, PatientID=1",
    "Value of Specific Character Set (0008,0005) is not supported: {}, fallback to ASCII (remove all special "
    "characters)",
    "Ignoring DICOM tag (0010,1030) with invalid content for VR DS: {}",
    'C-GET: Cannot locate resource "{}" at the Patient level',
    "Orthanc::DicomImageInformation() should not be applied to SOP Class UID: {}",
    "Not implemented yet: Unsupported transfer syntax: {}",
    'While creating a DICOM instance, tag (0010,0010) has out-of-range value: "{}"',
    "STOW-RS request restricted to study [1.2], but received instance from study [{}]",
]


@pytest.mark.parametrize("message", WITH_A_VALUE)
@pytest.mark.parametrize("value", [CANARY_ID, f"1\n{CANARY_ID}\n{FORGERIES[0]}"], ids=["line", "lines"])
def test_no_message_that_ends_with_a_value_shows_it(message: str, value: str) -> None:
    log = Log()
    log.filter.take(f"{HEAD}{message.format(value)}\n".encode())
    log.filter.silence()
    log.filter.take(f"{ORDINARY}\n".encode())
    assert CANARY_ID not in log.text
    assert FORGED not in log.text
    assert log.text.splitlines()[0].endswith("(the rest is not logged: it may name a patient)")
    assert log.text.endswith(ORDINARY + "\n")


def test_silence_alone_ends_nothing() -> None:
    log = Log()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\n".encode())
    log.filter.silence()
    log.filter.take(f"{CANARY_ID}\n{ORDINARY}\n".encode())
    assert CANARY_ID not in log.text
    assert ORDINARY not in log.text, "it came with what was hidden"


REFUSED = "reception: c_store refused status=0xC000 calling=CT1 instance=1.2 because=its shape"


@pytest.mark.parametrize("own", [ORDINARY, REFUSED, "codecs: a JPEG 2000 frame was not decoded because=x"])
def test_a_log_that_is_never_silent_is_hidden_for_a_while_alone(own: str) -> None:
    log = Log()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\n{CANARY_ID}\n{FORGED}\n".encode())
    hidden = 2
    while log.now < log_filter.MOST_SECONDS:
        log.filter.caught_up()
        log.filter.take(f"{own}\n".encode())
        hidden += 1
        assert own not in log.text
        log.now += 0.1
    log.filter.take(f"{own}\n".encode())
    assert own not in log.text, "more was written than was read: the value may not have passed"
    log.filter.caught_up()
    log.filter.take(f"{FORGED}\n".encode())
    log.filter.caught_up()
    log.filter.take(f"{own}\n{own}\n".encode())
    assert FORGED not in log.text
    assert log.text.splitlines()[1:] == [f"log: {hidden + 2} lines were hidden", own, own]


def test_another_such_message_is_hidden_for_as_long() -> None:
    log = Log()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\n".encode())
    log.now = log_filter.MOST_SECONDS - 0.1
    log.filter.caught_up()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=2\n{CANARY_ID}\n".encode())
    log.now += 1
    log.filter.caught_up()
    log.filter.take(f"{ORDINARY}\n".encode())
    assert ORDINARY not in log.text


def test_a_line_that_has_begun_ends_nothing() -> None:
    log = Log()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\nE1129".encode())
    log.now = log_filter.MOST_SECONDS
    log.filter.caught_up()
    log.filter.silence()
    log.filter.take(f" 03:12:53.111111 {FORGED}\n".encode())
    assert FORGED not in log.text


@pytest.mark.parametrize("content", [f"{ORDINARY}\n", "P", "required tag"], ids=["lines", "P", "tag"])
def test_a_value_of_hundreds_of_megabytes_passes_in_time(content: str) -> None:
    """On a log that is never silent, the time alone protects from its end."""
    log = Log()
    log.filter.take(f"{HEAD}{MESSAGE}PatientID=1\n".encode())
    piece = (content.encode() * 65536)[:65536]
    began = time.process_time()
    for _ in range(64 * 2**20 // len(piece)):
        log.filter.take(piece)
    # The largest object at 8 GB of memory has 1548 MiB.
    assert (time.process_time() - began) * 1548 / 64 < log_filter.MOST_SECONDS
    log.filter.end()
    (told,) = log.text.splitlines()[1:]
    assert told.endswith("lines were hidden")


def test_every_prefix_that_the_reception_prints_is_known() -> None:
    """A line of an unknown one would not end the hiding; one that nobody prints would be a forger's own."""
    printed: set[str] = set()
    for source in (SCRIPT.parent / "reception").iterdir():
        calls = re.findall(r"fprintf\(\s*stderr,\s*\"([^\"]*)\"", source.read_text(encoding="utf-8"))
        assert all(re.match(r"[a-z]+: ", line) for line in calls), (source.name, calls)
        printed |= {line.partition(":")[0] for line in calls}
    assert printed == set(log_filter.PREFIXES)


def test_an_ordinary_log_goes_on_as_it_is() -> None:
    log = Log()
    lines = [ORDINARY, "  a second line of a message", "reception: c_store refused", "Umlaute: ä ö ü", ""]
    log.filter.take("\n".join(lines).encode() + b"\nwithout an end")
    log.filter.end()
    assert log.text == "\n".join(lines) + "\nwithout an end\n"


def test_nothing_steers_a_terminal() -> None:
    log = Log()
    log.filter.take("a\x1b[2Jb\rc\x00d\x9b2Je\tf\n".encode())
    assert log.text == "a?[2Jb?c?d?2Je\tf\n"


def test_a_line_without_an_end_takes_no_memory() -> None:
    log = Log()
    for _ in range(64):
        log.filter.take(b"x" * 65536)
    assert len(log.text) > 60 * 65536


def test_the_program_copies_to_the_end() -> None:
    found = subprocess.run(
        [sys.executable, "-IS", str(SCRIPT)],
        input=f"{ORDINARY}\n{HEAD}{MESSAGE}PatientID=1\n{CANARY_ID}\n{FORGED}\n".encode(),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert found.stderr.decode().splitlines() == [
        ORDINARY,
        HEAD + "Store has failed because required tags(the rest is not logged: it may name a patient)",
        "log: 2 lines were hidden",
    ]
