"""What answers may take of the memory, where callers ask and do not take them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import get_origin

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from understudy.web.access import growing
from understudy.web.application import application
from understudy.web.boundary import Boundary
from understudy.web.bounds import PIECE, Bounds
from understudy.web.conflicts import _MOST_GIVEN_OUT
from understudy.web.identity import PREFIX

from tests.unit.web_fakes import FakeFacade, by_headers

OPERATOR = [(b"x-understudy-user", b"otto"), (b"x-understudy-role", b"operator")]
VERSION = f"{PREFIX}/conflicts/7/versions/{'a' * 32}"


class Call:
    """One request whose answer is taken when the test says so, as a server does with a slow caller."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.takes = asyncio.Event()
        self.begun = asyncio.Event()
        """Set when something of the answer waits to be taken, or the answer has ended."""
        self.head: Message = {}
        self.sizes: list[int] = []
        self._asked = False
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": OPERATOR,
            "client": None,
            "server": ("agent", 80),
        }
        self.task = asyncio.create_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        finally:
            self.begun.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head = message
            return
        self.sizes.append(len(message["body"]))
        if not self.takes.is_set():
            self.begun.set()
            await self.takes.wait()

    @property
    def status(self) -> int:
        return int(self.head["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.head["headers"])

    async def answered(self) -> "Call":
        """Take the answer to its end."""
        self.takes.set()
        await asyncio.wait_for(self.task, 10)
        return self

    async def waits(self) -> "Call":
        """Wait until its answer waits to be taken."""
        await asyncio.wait_for(self.begun.wait(), 10)
        return self


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def call() -> None:
        await test()

    asyncio.run(call())


def lists(path: str) -> bool:
    return path in (f"{PREFIX}/damages", f"{PREFIX}/obligations")


def bounded(size: int, bounds: Bounds) -> ASGIApp:
    """Return an application whose every answer has so many bytes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(bytes(size))(scope, receive, send)

    return Boundary(app, by_headers, lists, bounds)


def test_body_leaves_in_pieces_and_whole() -> None:
    async def test() -> None:
        call = await Call(bounded(3 * PIECE + 5, Bounds()), f"{PREFIX}/damages").answered()
        assert (call.status, sum(call.sizes)) == (200, 3 * PIECE + 5)
        assert max(call.sizes) == PIECE
        assert call.headers[b"content-length"] == str(3 * PIECE + 5).encode()

    run(test)


@pytest.mark.parametrize("path", ["/damages", "/openapi.json"], ids=["made in turns", "another"])
def test_bodies_that_nobody_takes_are_bounded_and_the_next_is_told_to_come_later(path: str) -> None:
    async def test() -> None:
        app = bounded(4 * PIECE, Bounds(most_waiting=8 * PIECE))
        calls = [await Call(app, PREFIX + path).waits() for _ in range(2)]
        refused = await Call(app, PREFIX + path).answered()
        assert refused.status == 503
        assert refused.headers[b"retry-after"] == b"10"
        assert refused.headers[b"x-content-type-options"] == b"nosniff"
        for call in calls:
            assert (await call.answered()).status == 200
            assert sum(call.sizes) == 4 * PIECE
        assert (await Call(app, PREFIX + path).answered()).status == 200

    run(test)


def test_small_body_passes_bodies_that_nobody_takes() -> None:
    async def test() -> None:
        bounds = Bounds(most_waiting=PIECE)
        large = await Call(bounded(4 * PIECE, bounds), f"{PREFIX}/damages").waits()
        assert (await Call(bounded(PIECE, bounds), f"{PREFIX}/status").answered()).status == 200
        await large.answered()

    run(test)


def test_body_that_is_larger_than_all_room_goes_alone() -> None:
    async def test() -> None:
        app = bounded(4 * PIECE, Bounds(most_waiting=PIECE))
        assert (await Call(app, f"{PREFIX}/damages").answered()).status == 200

    run(test)


def test_no_more_than_two_growing_answers_are_made_at_a_time() -> None:
    async def test() -> None:
        goes_on = asyncio.Event()
        making = 0
        most = 0

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal making, most
            making += 1
            most = max(most, making)
            await goes_on.wait()
            making -= 1
            await Response(b"[]")(scope, receive, send)

        app = Boundary(slow, by_headers, lists, Bounds(patience=0.05))
        begun = [Call(app, f"{PREFIX}/obligations") for _ in range(2)]
        late = await Call(app, f"{PREFIX}/obligations").answered()
        assert (late.status, late.headers[b"retry-after"]) == (503, b"10")
        other = Call(app, f"{PREFIX}/status")
        goes_on.set()
        assert [(await call.answered()).status for call in (*begun, other)] == [200] * 3
        assert (await Call(app, f"{PREFIX}/obligations").answered()).status == 200
        assert most == 3, "two that grow, and the status"

    run(test)


def test_every_route_that_answers_a_list_takes_its_turn(tmp_path: Path) -> None:
    app = application(FakeFacade(reports=tmp_path), "0.1.0", by_headers)
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    listing = {
        route.path
        for route in routes
        if isinstance(route, APIRoute) and get_origin(route.response_model) is Sequence
    }
    grows = growing(route for route in routes if isinstance(route, BaseRoute))

    assert {"/conflicts", "/obligations"} <= listing
    longer = {"/failback/plan", "/routes/explain", "/reports/7", "/reports/7.html"}
    assert [path for path in listing | longer if not grows(PREFIX + path)] == []
    others = ("/status", "/mode", "/operations/7", f"/conflicts/7/versions/{'a' * 32}", "/reports", "/x")
    assert [path for path in others if grows(PREFIX + path)] == []
    assert not grows("/damages"), "it is no path of ours"


@pytest.fixture
def facade(tmp_path: Path) -> Iterator[FakeFacade]:
    facade = FakeFacade(reports=tmp_path)
    yield facade
    assert facade.conflicts.given_out == 0, "a file was left open"


def test_version_is_read_as_fast_as_its_caller_takes_it_and_closed_after(facade: FakeFacade) -> None:
    facade.conflicts.content = bytes(20 * PIECE)

    async def test() -> None:
        app = application(facade, "0.1.0", by_headers)
        call = await Call(app, VERSION).waits()
        assert call.sizes == [PIECE]
        assert facade.conflicts.given_out == 1
        await call.answered()
        assert (call.status, sum(call.sizes), max(call.sizes)) == (200, 20 * PIECE, PIECE)
        assert call.headers[b"content-length"] == str(20 * PIECE).encode()
        assert call.headers[b"content-type"] == b"application/dicom"

    run(test)


def test_versions_that_nobody_takes_are_few_and_the_next_is_told_to_come_later(facade: FakeFacade) -> None:
    facade.conflicts.content = bytes(20 * PIECE)

    async def test() -> None:
        app = application(facade, "0.1.0", by_headers)
        calls = [await Call(app, VERSION).waits() for _ in range(_MOST_GIVEN_OUT)]
        refused = await Call(app, VERSION).answered()
        assert (refused.status, refused.headers[b"retry-after"]) == (503, b"10")
        assert facade.conflicts.given_out == _MOST_GIVEN_OUT
        gone = calls.pop()
        gone.task.cancel()
        await asyncio.wait([gone.task])
        assert (await Call(app, VERSION).answered()).status == 200
        for call in calls:
            await call.answered()

    run(test)


def test_version_that_is_not_there_takes_no_place(facade: FakeFacade) -> None:
    async def test() -> None:
        app = application(facade, "0.1.0", by_headers)
        for _ in range(2 * _MOST_GIVEN_OUT):
            missing = await Call(app, VERSION.replace("a" * 32, "c" * 32)).answered()
            assert missing.status == 404

    run(test)
