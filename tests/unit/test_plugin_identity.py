"""Who is calling: only the edge may speak for people."""

import base64

import pytest
from understudy.plugin.identity import Caller, identify
from understudy.plugin.roles import CallerRole


def basic(user: str, password: str = "secret") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_edge_speaks_for_a_person() -> None:
    headers = {"authorization": basic("edge"), "x-understudy-user": "ann", "x-understudy-role": "operator"}
    assert identify(headers) == Caller("ann", CallerRole.OPERATOR)


def test_agent_is_itself_whatever_its_headers_say() -> None:
    headers = {"authorization": basic("agent"), "x-understudy-user": "ann", "x-understudy-role": "reader"}
    assert identify(headers) == Caller("agent", CallerRole.AGENT)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-understudy-user": "ann", "x-understudy-role": "admin"},
        {"authorization": basic("edge")},
        {"authorization": basic("edge"), "x-understudy-user": "ann"},
        {"authorization": basic("edge"), "x-understudy-role": "admin"},
        {"authorization": basic("edge"), "x-understudy-user": "", "x-understudy-role": "admin"},
        {"authorization": basic("edge"), "x-understudy-user": "ann", "x-understudy-role": "agent"},
        {"authorization": basic("edge"), "x-understudy-user": "ann", "x-understudy-role": "ADMIN"},
        {"authorization": basic("edge"), "x-understudy-user": "a\nb", "x-understudy-role": "admin"},
        {"authorization": basic("edgy"), "x-understudy-user": "ann", "x-understudy-role": "admin"},
        {"authorization": "Bearer agent"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + base64.b64encode(b"agent").decode()},
        {"authorization": "Basic " + base64.b64encode(b"\xff:x").decode()},
        {"authorization": "Basic"},
    ],
)
def test_anybody_else_is_nobody(headers: dict[str, str]) -> None:
    assert identify(headers) is None
