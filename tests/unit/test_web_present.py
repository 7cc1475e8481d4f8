"""One computation for all who wait, and none of the server's threads for whoever asks all the time."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from understudy.core.views import OperationView, Status
from understudy.web.application import application
from understudy.web.errors import ApiError
from understudy.web.present import Shared

from tests.stack import wait_until
from tests.unit.web_fakes import STATUS, FakeFacade, by_headers

READER = {"X-Understudy-User": "rita", "X-Understudy-Role": "reader"}
OPERATOR = {"X-Understudy-User": "otto", "X-Understudy-Role": "operator"}
MANY = 200
HANGS = 120.0
"""Seconds for which what hangs does so: half of that is no time in which a busy machine answers."""


class Slow:
    """A computation that is held until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.let_go = threading.Event()

    def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        self.let_go.wait(HANGS)
        return number


def test_those_who_ask_meanwhile_share_one_that_begins_after_they_asked() -> None:
    slow = Slow()

    async def ask() -> list[int]:
        shared = Shared(slow)
        first = asyncio.create_task(shared.get())
        while not slow.begun:
            await asyncio.sleep(0)
        others = [asyncio.create_task(shared.get()) for _ in range(MANY)]
        await asyncio.sleep(0)
        slow.let_go.set()
        return [await first, *[await other for other in others]]

    answers = asyncio.run(ask())
    assert answers == [1] + [2] * MANY


def test_one_that_does_not_end_holds_one_thread_and_everybody_is_told() -> None:
    slow = Slow()

    async def ask() -> list[object]:
        shared = Shared(slow, patience=0.05)
        return list(await asyncio.gather(*(shared.get() for _ in range(MANY)), return_exceptions=True))

    # Not by number: threads of the tests before may end meanwhile.
    before = set(threading.enumerate())
    answers = asyncio.run(ask())
    assert {type(answer) for answer in answers} == {ApiError}
    assert len(set(threading.enumerate()) - before) == 1
    wait_until(lambda: slow.begun, bool, deadline=60, what="its begin", pause=0.01)
    assert slow.begun == 1
    slow.let_go.set()
    wait_until(
        lambda: set(threading.enumerate()) - before,
        lambda left: not left,
        deadline=60,
        what="its end",
        pause=0.01,
    )


def test_error_reaches_everybody_who_waits_and_nobody_later() -> None:
    answers: list[object] = [OSError(5, "Input/output error"), 7]

    def compute() -> object:
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    async def ask() -> object:
        shared = Shared(compute)
        with pytest.raises(OSError, match="Input"):
            await shared.get()
        return await shared.get()

    assert asyncio.run(ask()) == 7


class Hanging(FakeFacade):
    """Its ledger hangs, for looks and for acts, until it is let go."""

    def __init__(self, reports: Path) -> None:
        super().__init__(reports)
        self.let_go = threading.Event()

    def status(self) -> Status:
        self.let_go.wait(HANGS)
        return STATUS

    def operations(self, limit: int) -> Sequence[OperationView]:
        self.let_go.wait(HANGS)
        return []


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Hanging]:
    found = Hanging(tmp_path)
    yield found
    found.let_go.set()


def test_health_mode_and_promote_answer_while_every_look_at_the_ledger_hangs(hanging: Hanging) -> None:
    """Forty threads is what the server has for calls that may wait: status asks for none of them."""

    async def ask() -> tuple[float, list[int]]:
        transport = httpx.ASGITransport(application(hanging, "0.1.0", by_headers))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            waiting = [
                asyncio.create_task(client.get("/understudy/status", headers=READER)) for _ in range(MANY)
            ]
            waiting += [
                asyncio.create_task(client.get("/understudy/operations", headers=READER)) for _ in range(39)
            ]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            answers = await asyncio.gather(
                *(client.get("/understudy/health") for _ in range(MANY)),
                *(client.get("/understudy/mode", headers=READER) for _ in range(MANY)),
                client.post("/understudy/promote", headers=OPERATOR, json={"reason": "down", "epoch": 3}),
            )
            elapsed = time.monotonic() - began
            hanging.let_go.set()
            await asyncio.gather(*waiting)
            return elapsed, [answer.status_code for answer in answers]

    elapsed, codes = asyncio.run(ask())
    assert codes == [200] * (2 * MANY + 1)
    assert elapsed < HANGS / 2


def test_no_answer_of_health_and_mode_needs_a_thread_of_the_server(hanging: Hanging) -> None:
    """All forty are taken: refusals have to be answered all the same."""

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(application(hanging, "0.1.0", by_headers))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            waiting = [
                asyncio.create_task(client.get("/understudy/operations", headers=READER)) for _ in range(60)
            ]
            await asyncio.sleep(0.05)
            answers = await asyncio.wait_for(
                asyncio.gather(
                    client.get("/understudy/health?role=active"),
                    client.get("/understudy/health?role=king"),
                    client.get("/understudy/mode", headers=READER),
                    client.get("/understudy/mode"),
                    client.get("/understudy/absent"),
                    client.post("/understudy/promote", headers=READER, json={}),
                ),
                timeout=HANGS / 2,
            )
            hanging.let_go.set()
            await asyncio.gather(*waiting)
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [503, 400, 200, 401, 401, 403]
