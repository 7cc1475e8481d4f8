"""Plan: say what a failback would do, as an operation, since a slow primary is asked for long."""

import json
from dataclasses import asdict

from understudy.core.errors import NotFoundError
from understudy.core.ports import Clock
from understudy.core.views import OperationView, PlanView
from understudy.engine.operations import Result, Runner, RunnerBooks, Running
from understudy.flow.failback import Failback

KIND = "plan"
_LAST = "plan.last"


class Planner:
    """Compares both inventories by `step` where a plan was asked for, and keeps the last plan."""

    def __init__(self, failback: Failback, ledger: RunnerBooks, clock: Clock) -> None:
        self._failback = failback
        self._ledger = ledger
        self._runner = Runner(KIND, self._plan, ledger, clock, unit="studies")

    def begin(self, who: str) -> OperationView:
        """Start to plan, or return the planning that is under way."""
        return self._runner.begin(who, message="asks the primary what it has")

    def step(self) -> bool:
        """Make the plan that was asked for, if one was; return whether there was."""
        return self._runner.step()

    def last(self) -> PlanView:
        """Return the plan that was made last; raise NotFoundError where none was."""
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
        return Result(f"{to_send} instances to send, {sum(plan.to_pull.values())} to pull")
