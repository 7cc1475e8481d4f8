"""Plan: say what a failback would do, as an operation, since a slow primary takes long to answer."""

import json
from dataclasses import asdict

from understudy.core.errors import NotFoundError
from understudy.core.ports import Clock
from understudy.core.text import counted
from understudy.core.views import OperationView, PlanView
from understudy.engine.operations import Result, Runner, RunnerBooks, Running
from understudy.flow.failback import Failback

KIND = "plan"
_LAST = "plan.last"


class Planner:
    """`step` compares both inventories if a plan was asked for; the last plan is kept."""

    def __init__(self, failback: Failback, ledger: RunnerBooks, clock: Clock) -> None:
        self._failback = failback
        self._ledger = ledger
        self._runner = Runner(KIND, self._plan, ledger, clock, unit="studies")

    def begin(self, who: str) -> OperationView:
        """Begin a plan, or return the running operation."""
        return self._runner.begin(who, message="asks the primary what it has")

    def step(self) -> bool:
        """Make the plan if one was asked for; return whether one was."""
        return self._runner.step()

    def last(self) -> PlanView:
        """Return the last plan; raise NotFoundError if none was made."""
        known = self._ledger.facts.read(_LAST)
        if known is None:
            raise NotFoundError(
                "no plan of a failback was made", 'POST /understudy/failback {"dry_run": true} makes one'
            )
        return PlanView(**json.loads(known))

    def _plan(self, asked: Running) -> Result:
        plan = self._failback.plan(asked.tell)
        self._ledger.facts.write(_LAST, json.dumps(asdict(plan)))
        to_send = sum(plan.to_send.values())
        return Result(f"{counted(to_send, 'image')} to send, {sum(plan.to_pull.values())} to pull")
