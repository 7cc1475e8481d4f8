"""Route: decide which holders are owed a new instance, and say why."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Protocol

from understudy.core.errors import NotFoundError
from understudy.core.model import NewInstance, StudyInstanceUid
from understudy.core.ports import UnreadableFileError
from understudy.core.rules import Asked, Debt, Judged, Rules, Subject
from understudy.core.views import ConditionView, DestinationView, ExplainedView, ExplanationView, RouteView
from understudy.ledger import DeviceBook, InstanceBook

_LONGEST_VALUE = 64
"""Characters of a value that are shown."""


class Attributes(Protocol):
    """The stored files, as far as rules read them."""

    def attributes(self, instance: NewInstance, keywords: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the values of the attributes that the file has, or raise UnreadableFileError.

        Raises HolderUnavailableError if the whole volume is not there.
        """
        ...


class RouterBooks(Protocol):
    """The books of the ledger that the router uses."""

    devices: DeviceBook
    instances: InstanceBook


class Router:
    """The rules, with the ledger and the files that they look at."""

    def __init__(
        self,
        rules: Rules,
        ledger: RouterBooks,
        files: Attributes,
        *,
        zone: tzinfo,
        names_patient: Callable[[str], bool],
    ) -> None:
        self.rules = rules
        self._ledger = ledger
        self._files = files
        self._zone = zone
        self._names_patient = names_patient
        self._keywords = rules.keywords
        self._asks_address = rules.asks_address

    def owed(self, instance: NewInstance) -> tuple[list[Debt], str]:
        """Return the debts of the instance, and why its file cannot be read, empty if it can."""
        subject, unread = self._subject(instance)
        return self.rules.owed(subject), unread

    def explain(self, study: StudyInstanceUid) -> ExplainedView:
        """Say which routes match the instances of a study and why; raise NotFoundError if it is not here."""
        instances = self._ledger.instances.of_study(study)
        if not instances:
            raise NotFoundError(
                "no instance of that study is here",
                "compare the Study Instance UID (0020,000D) with the viewer",
            )
        groups: dict[object, ExplanationView] = {}
        members: dict[object, int] = {}
        for instance in instances:
            subject, unread = self._subject(instance)
            judged = self.rules.judge(subject)
            key = (
                unread,
                *((*(asked.holds for asked in one.asked), *one.refusals.items()) for one in judged),
            )
            members[key] = members.get(key, 0) + 1
            if key not in groups:
                owed = [debt.holder for debt in self.rules.owed(subject)]
                routes = [self._route(one) for one in judged]
                groups[key] = ExplanationView(0, instance.sop_instance_uid, unread, routes, owed)
        shown = [replace(view, instances=members[key]) for key, view in groups.items()]
        return ExplainedView(study, len(instances), shown)

    def _subject(self, instance: NewInstance) -> tuple[Subject, str]:
        attributes: Mapping[str, Sequence[str]] = {}
        unread = ""
        if self._keywords:
            try:
                attributes = self._files.attributes(instance, self._keywords)
            except UnreadableFileError as error:
                unread = error.reason
        address = ""
        if self._asks_address:
            address = self._ledger.devices.last_address(instance.calling_ae_title, instance.called_ae_title)
        received = datetime.fromtimestamp(instance.received_at, self._zone)
        return Subject(instance, address, received, attributes), unread

    def _route(self, judged: Judged) -> RouteView:
        failing = sum(not one.holds for one in judged.asked)
        if judged.passed_over:
            because = "an earlier route matches, and only the first counts"
        elif failing:
            because = f"{failing} of {len(judged.asked)} conditions do not hold"
        else:
            because = "every condition holds" if judged.asked else "it has no conditions"
        owed = {debt.holder for debt in judged.debts()}
        destinations = [
            DestinationView(holder, holder in owed, refusal if judged.matches else because)
            for holder, refusal in judged.refusals.items()
        ]
        conditions = [self._condition(one) for one in judged.asked]
        return RouteView(judged.route.name, judged.matches, because, conditions, destinations)

    def _condition(self, asked: Asked) -> ConditionView:
        condition = asked.condition
        values = [value[:_LONGEST_VALUE] for value in asked.values]
        if self._names_patient(condition.of):
            values = ["not shown: it identifies the patient"] * bool(values)
        words = f"{condition.of} {condition.asks}"
        return ConditionView(f"not: {words}" if condition.negated else words, values, asked.holds)
