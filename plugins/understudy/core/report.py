"""The closing report of an operation as a type: its work, its proofs, and the work left for a person."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One line of the summary: a name in words and its value with its unit."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ReportTable:
    """One table; every row has as many cells as there are columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of {self.caption!r} has {len(row)} cells for {len(self.columns)} columns"
                )


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one operation.

    `kind` is the verb, `outcome` one line, `details` paragraphs, and `hints` the next actions for a person.
    `started` and `finished` are ISO 8601 with zone. The report names studies and instances by UID only, and
    never a patient.
    """

    title: str
    kind: str
    site: str
    started: str
    finished: str
    succeeded: bool
    outcome: str
    summary: Sequence[ReportRow] = ()
    tables: Sequence[ReportTable] = ()
    details: Sequence[str] = ()
    hints: Sequence[str] = ()
