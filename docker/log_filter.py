#!/usr/bin/python3 -IS
"""Copies Orthanc's log from standard input to standard error, without patients and without forged lines.

Some of Orthanc's messages end with a value from a data set: a Patient ID that C-GET did not find, a number
that is none, a UID or a character set that it does not know. A value may name a patient, and may contain line
ends.

Rule 1: the value and the lines after it are hidden until the log was silent for SILENCE_SECONDS and then has
a line in the form of Orthanc or of the reception. Orthanc writes a value in one piece, and the value's author
cannot choose when the next message comes. On a log that is never silent, the hiding ends at such a line after
MOST_SECONDS, as soon as everything that was written before it has been read.
Rule 2: the number of hidden lines is logged.
Rule 3: control characters are replaced, so that no line controls a terminal.
"""

import os
import re
import select
import sys
import time
from collections.abc import Callable

SILENCE_SECONDS = 0.2
MOST_SECONDS = 10.0
"""The largest value that fits into Orthanc's memory passes in less time."""
PREFIXES = ("codecs", "reception")
"""The beginnings of the lines of docker/reception, which have no time."""
_BEFORE_A_VALUE = (
    b"required tags",
    b"PatientID=",
    b"(0008,0005) is not supported: ",
    b"invalid content for VR ",
    b"Cannot locate resource ",
    b"not be applied to SOP Class UID: ",
    b"Unsupported transfer syntax: ",
    b"out-of-range value: ",
    b"received instance from study [",
)
"""What Orthanc writes before such a value."""
_OWN = re.compile(rb"[EWIT]\d{4} \d\d:\d\d:\d\d\.\d{6} |(%s): " % "|".join(PREFIXES).encode())
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]")
_MOST = 1 << 16
"""Bytes of a line at most; a longer line is split."""


class Filter:
    """Filters the log piece by piece; `write` gets whole lines."""

    def __init__(self, write: Callable[[bytes], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._rest = b""
        self._hiding = False
        self._hidden_until = 0.0
        self._hidden_lines = 0
        self._may_end = False

    def take(self, piece: bytes) -> None:
        """Filter the bytes of one read."""
        if self._hiding and not self._may_end:
            self._hide(piece)
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._rest) > _MOST:
            self._line(self._rest[:_MOST])
            self._rest = self._rest[_MOST:]

    def caught_up(self) -> None:
        """Note that everything that was written has been read."""
        if not self._rest and self._clock() >= self._hidden_until:
            self._may_end = True

    def silence(self) -> None:
        """Note that nothing was written for SILENCE_SECONDS."""
        self._may_end = not self._rest

    def end(self) -> None:
        """Write the last line and the number of hidden lines at the end of the log."""
        if self._rest:
            self._line(self._rest)
        self._tell()

    def _line(self, line: bytes) -> None:
        may_end, self._may_end = self._may_end, False
        if self._hiding and not (may_end and _OWN.match(line)):
            self._count(line, 1)
            return
        self._tell()
        # Faster than a pattern: a busy Orthanc writes thousands of lines a second.
        ends = [line.find(words) + len(words) for words in _BEFORE_A_VALUE if words in line]
        if ends:
            line = line[: min(ends)] + b"(the rest is not logged: it may name a patient)"
            self._hiding = True
            self._hidden_until = self._clock() + MOST_SECONDS
        self._write(_CONTROL.sub(b"?", line) + b"\n")

    def _hide(self, piece: bytes) -> None:
        """Skip the bytes of one read quickly, because a value may have hundreds of megabytes."""
        self._count(piece, piece.count(b"\n"))
        # One byte is enough to remember that a line has begun.
        self._rest = piece[piece.rfind(b"\n") + 1 :][:1]

    def _count(self, hidden: bytes, lines: int) -> None:
        self._hidden_lines += lines
        # At least seven times as fast as the pattern for any value.
        if any(words in hidden for words in _BEFORE_A_VALUE):
            self._hidden_until = self._clock() + MOST_SECONDS

    def _tell(self) -> None:
        if self._hidden_lines:
            self._write(b"log: %d lines were hidden\n" % self._hidden_lines)
        self._hiding, self._hidden_lines = False, 0


def main() -> None:
    """Run until the log ends."""
    log = Filter(lambda line: os.write(sys.stderr.fileno(), line))
    while True:
        if not select.select([0], [], [], 0)[0]:
            log.caught_up()
            if not select.select([0], [], [], SILENCE_SECONDS)[0]:
                log.silence()
                select.select([0], [], [])
        piece = os.read(0, _MOST)
        if not piece:
            log.end()
            return
        log.take(piece)


if __name__ == "__main__":
    main()
