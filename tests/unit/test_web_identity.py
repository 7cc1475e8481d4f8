"""Who asks: on the neighbours' sockets only a fresh signature of the edge, for this request, used once."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from understudy.adapters import edge_config
from understudy.web.application import application
from understudy.web.identity import FRESH_SECONDS, Doorkeeper, Identity, sign, statement

from tests.unit.web_fakes import FakeFacade

OWN, EDGES = Path("/run/understudy/agent.sock"), Path("/run/understudy-of-edge/agent.sock")
KEY, NOW = b"k" * 32, 1_790_000_000.0


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = NOW
        self.passed = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds

    def __call__(self) -> float:
        return self.now


class Agent:
    """The application as its sockets reach it; `begin` makes it new for a test, but for its routes."""

    def __init__(self, folder: Path) -> None:
        self.facade = FakeFacade(reports=folder)
        self._app = application(self.facade, "0.1.0", self._identify, swagger=folder)
        self.begin()

    def begin(self) -> None:
        """Start with nothing done and no signature used."""
        vars(self.facade).update(vars(FakeFacade(reports=self.facade.reports)))
        self.clock = Clock()
        self._doorkeeper = Doorkeeper(OWN, KEY, self.clock, lambda: self.clock.passed)

    @property
    def used(self) -> Mapping[str, float]:
        """The signatures that are remembered."""
        return self._doorkeeper._used

    def _identify(self, request: Request) -> Identity | None:
        return self._doorkeeper(request)

    def call(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | list[tuple[str, str]],
        *,
        by: Path = EDGES,
        content: bytes | None = None,
    ) -> tuple[int, str]:
        """Return status and error word."""

        async def request() -> httpx.Response:
            transport = httpx.ASGITransport(_at(self._app, by), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                return await client.request(method, target, headers=headers, content=content)

        answer = asyncio.run(request())
        try:
            return answer.status_code, str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            return answer.status_code, ""


def _at(app: ASGIApp, path: Path) -> ASGIApp:
    async def through(scope: Scope, receive: Receive, send: Send) -> None:
        # As uvicorn names a Unix socket.
        await app({**scope, "server": (str(path), None)}, receive, send)

    return through


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """One application for the whole file: making it costs more than any test."""
    return Agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def agent(served: Agent) -> Agent:
    served.begin()
    return served


def signed(
    method: str,
    target: str,
    *,
    role: str = "admin",
    user: str = "ann",
    moment: float = NOW,
    nonce: UUID | None = None,
    key: bytes = KEY,
) -> dict[str, str]:
    """Return the headers as the edge sets them."""
    at, once = f"{moment:.0f}", str(nonce or uuid4())
    said = statement(moment=at, nonce=once, role=role, user=user, method=method, target=target)
    return {
        "X-Understudy-User": user,
        "X-Understudy-Role": role,
        "X-Understudy-Time": at,
        "X-Understudy-Nonce": once,
        "X-Understudy-Signature": sign(key, said).upper(),
    }


def test_edge_and_agent_put_the_same_words_together() -> None:
    words = {
        "moment": "%[var(txn.moment)]",
        "nonce": "%[var(txn.nonce)]",
        "role": "%[var(txn.role)]",
        "user": "%[var(txn.user)]",
        "method": "%[method]",
        "target": "%[pathq]",
    }
    template = (edge_config.TEMPLATES / "haproxy.cfg").read_text(encoding="utf-8")
    assert f'set-var-fmt(txn.said) "{statement(**words).decode()}"' in template


@pytest.mark.parametrize("target", ["/understudy/status", "/understudy/obligations?limit=3&holder=a%20b"])
def test_signed_person_is_answered(agent: Agent, target: str) -> None:
    assert agent.call("GET", target, signed("GET", target, role="reader"))[0] == 200


@pytest.mark.parametrize("missing", ["Time", "Nonce", "Signature"])
def test_person_without_a_whole_signature_is_refused(agent: Agent, missing: str) -> None:
    headers = signed("GET", "/understudy/status")
    del headers[f"X-Understudy-{missing}"]
    assert agent.call("GET", "/understudy/status", headers) == (401, "unsigned_identity")


@pytest.mark.parametrize("doubled", ["Time", "Nonce", "Signature"])
def test_doubled_signature_is_refused(agent: Agent, doubled: str) -> None:
    headers = list(signed("GET", "/understudy/status").items())
    headers.append((f"X-Understudy-{doubled}", "x"))
    assert agent.call("GET", "/understudy/status", headers) == (401, "unsigned_identity")


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Understudy-Role": "operator"},
        {"X-Understudy-User": "eve"},
        {"X-Understudy-Time": str(int(NOW) + 1)},
        {"X-Understudy-Nonce": "another"},
        {"X-Understudy-Signature": "0" * 64},
        {"X-Understudy-Signature": "no hexadecimal"},
        {"X-Understudy-Signature": ""},
    ],
)
def test_signature_of_something_else_is_refused(agent: Agent, changed: dict[str, str]) -> None:
    headers = signed("GET", "/understudy/status", role="reader") | changed
    assert agent.call("GET", "/understudy/status", headers) == (401, "wrong_signature")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/understudy/promote"),
        ("POST", "/understudy/obligations/waive"),
        ("GET", "/understudy/status?x=1"),
        ("GET", "/understudy/metrics"),
        ("GET", "/understudy/%73tatus"),
    ],
)
def test_signature_for_one_request_opens_no_other(agent: Agent, method: str, target: str) -> None:
    headers = signed("GET", "/understudy/status") | {"Content-Type": "application/json"}
    content = b'{"reason": "x", "epoch": 3}' if method == "POST" else None
    assert agent.call(method, target, headers, content=content) == (401, "wrong_signature")
    assert agent.facade.acts == []


def test_signature_with_another_key_is_refused(agent: Agent) -> None:
    headers = signed("GET", "/understudy/status", key=b"another")
    assert agent.call("GET", "/understudy/status", headers) == (401, "wrong_signature")


@pytest.mark.parametrize("age", [-FRESH_SECONDS - 1, FRESH_SECONDS + 1, 3600])
def test_signature_that_is_not_fresh_is_refused(agent: Agent, age: float) -> None:
    headers = signed("GET", "/understudy/status", moment=NOW - age)
    assert agent.call("GET", "/understudy/status", headers) == (401, "stale_signature")


@pytest.mark.parametrize("age", [-FRESH_SECONDS, FRESH_SECONDS])
def test_signature_is_taken_for_its_time(agent: Agent, age: float) -> None:
    headers = signed("GET", "/understudy/status", moment=NOW - age)
    assert agent.call("GET", "/understudy/status", headers)[0] == 200


def test_signature_is_taken_once_for_as_long_as_it_is_fresh(agent: Agent) -> None:
    for age in (FRESH_SECONDS, 0, -FRESH_SECONDS):
        headers = signed("GET", "/understudy/status", moment=agent.clock.now - age)
        assert agent.call("GET", "/understudy/status", headers)[0] == 200
        refused = set()
        for _ in range(8):
            refused.add(agent.call("GET", "/understudy/status", headers))
            # Others come meanwhile, which is when old ones are forgotten.
            other = signed("GET", "/understudy/status", moment=agent.clock.now)
            assert agent.call("GET", "/understudy/status", other)[0] == 200
            agent.clock.advance(FRESH_SECONDS / 4)
        assert refused <= {(401, "used_signature"), (401, "stale_signature")}
        agent.clock.advance(10 * FRESH_SECONDS)


def test_used_signatures_are_forgotten_although_the_clock_was_set_back(agent: Agent) -> None:
    for _ in range(3):
        agent.call("GET", "/understudy/status", signed("GET", "/understudy/status", moment=agent.clock.now))
    agent.clock.now -= 30 * 86_400
    agent.clock.advance(3 * FRESH_SECONDS)
    headers = signed("GET", "/understudy/status", moment=agent.clock.now)
    assert agent.call("GET", "/understudy/status", headers)[0] == 200
    assert len(agent.used) == 1


def test_refused_signature_does_not_use_up_a_good_one(agent: Agent) -> None:
    nonce = uuid4()
    good = signed("GET", "/understudy/status", nonce=nonce)
    bad = good | {"X-Understudy-Signature": "0" * 64}
    assert agent.call("GET", "/understudy/status", bad) == (401, "wrong_signature")
    assert agent.call("GET", "/understudy/status", good)[0] == 200


def test_headers_are_believed_on_the_agents_own_socket_alone(agent: Agent) -> None:
    headers = {"X-Understudy-User": "cli", "X-Understudy-Role": "admin"}
    assert agent.call("GET", "/understudy/status", headers, by=OWN)[0] == 200
    for other in (EDGES, Path("/run/understudy-of-orthanc/agent.sock"), Path("agent.sock")):
        assert agent.call("GET", "/understudy/status", headers, by=other) == (401, "unsigned_identity")


def test_broken_request_of_an_unproven_person_says_nothing_of_itself(agent: Agent) -> None:
    headers = {"X-Understudy-User": "eve", "X-Understudy-Role": "admin", "Content-Type": "application/json"}
    for method, target in (("POST", "/understudy/promote"), ("GET", "/understudy/nothing-of-that-name")):
        assert agent.call(method, target, headers, content=b"{broken") == (401, "unsigned_identity")


def test_wake_and_health_need_no_person(agent: Agent) -> None:
    assert agent.call("GET", "/understudy/health", {})[0] == 200
    assert agent.call("POST", "/understudy/wake", {})[0] < 300
    assert agent.call("GET", "/understudy/status", {}) == (401, "unauthenticated")


def test_forging_again_and_again_washes_nothing_out_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(tmp_path)
    forged = {"X-Understudy-User": "eve", "X-Understudy-Role": "admin"}
    for _ in range(20):
        assert agent.call("GET", "/understudy/status", forged)[0] == 401
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        "identity refused because=unsigned_identity since_start=1"
    ]
