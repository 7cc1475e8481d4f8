"""The REST API over a façade: who may do what, what it refuses, and what it answers."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import APIRouter, Depends
from understudy.core.errors import PreconditionError
from understudy.core.modes import Mode
from understudy.core.ports import HolderUnavailableError
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.roles import Role
from understudy.web.access import authorise
from understudy.web.application import application
from understudy.web.boundary import BODY_LIMIT
from understudy.web.identity import PREFIX
from understudy.web.report import report_json

from tests.unit.web_fakes import Client, FakeFacade, by_headers, routes_of

READER = {"X-Understudy-User": "rita", "X-Understudy-Role": "reader"}
OPERATOR = {"X-Understudy-User": "otto", "X-Understudy-Role": "operator"}
ADMIN = {"X-Understudy-User": "ada", "X-Understudy-Role": "admin"}
EVERYBODY = {Role.READER: READER, Role.OPERATOR: OPERATOR, Role.ADMIN: ADMIN}

BODIES: dict[str, object] = {
    "/promote": {"reason": "down", "epoch": 3},
    "/failback": {"dry_run": True},
    "/failback/settle": {"epoch": 3},
    "/failback/interrupt": {"reason": "again", "epoch": 3},
    "/hold": {"reason": "update", "epoch": 3},
    "/release": {"reason": "updated", "epoch": 3},
    "/obligations/replay": {"holder": "nas"},
    "/routes/explain": {"study_instance_uid": "1.2.3"},
    "/conflicts/7/acknowledge": {"reason": "the later one is right"},
    "/deletions": {"study_instance_uid": "1.2.3", "reason": "a full disk", "force": True},
    "/obligations/waive": {"holder": "nas", "sop_instance_uids": ["1.2.3.4"], "reason": "test object"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, FakeFacade]:
    """One application for the whole file: making it costs more than any test."""
    folder = tmp_path_factory.mktemp("swagger")
    (folder / "swagger-ui.css").write_text("a{}")
    facade = FakeFacade(reports=folder)
    return Client(application(facade, "0.1.0", by_headers, swagger=folder)), facade


@pytest.fixture
def facade(served: tuple[Client, FakeFacade], tmp_path: Path) -> FakeFacade:
    _, facade = served
    vars(facade).update(vars(FakeFacade(reports=tmp_path)))
    return facade


@pytest.fixture
def client(served: tuple[Client, FakeFacade], facade: FakeFacade) -> Client:
    """The application over `facade` as a test has it at its start."""
    client, _ = served
    return client


def roles(client: Client) -> dict[tuple[str, str], Role | None]:
    """Return the role that each route needs, by method and path; None if it needs no person."""
    found = routes_of(client.app)
    silent = [call for call, access in found.items() if access is None]
    assert not silent, "a route says by `open_to` who may call it"
    return {call: access.role for call, access in found.items() if access is not None}


def concrete(path: str) -> str:
    for holder, value in (
        ("{operation}", "7"),
        ("{conflict}", "7"),
        ("{md5}", "a" * 32),
        ("/console/{name}", "/console/console.js"),
    ):
        path = path.replace(holder, value)
    return path.replace("/docs/{name}", "/docs/start.js").replace("{name}", "7")


def test_every_route_says_who_may_call_it_and_a_reader_acts_by_none(client: Client) -> None:
    found = roles(client)

    assert all(path.startswith(PREFIX) for _, path in found)
    assert {call for call, role in found.items() if role is None} == {
        ("GET", f"{PREFIX}/health"),
        ("POST", f"{PREFIX}/wake"),
    }
    assert {call for call, role in found.items() if call[0] == "POST" and role is Role.READER} == {
        ("POST", f"{PREFIX}/routes/explain"),
    }


def test_route_that_does_not_say_who_may_call_it_is_refused_to_all(tmp_path: Path) -> None:
    client = Client(application(FakeFacade(reports=tmp_path), "0.1.0", by_headers))
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(authorise)])

    @routes.get("/forgotten")
    def forgotten() -> str:
        return "secret"

    client.app.include_router(routes)

    for headers in EVERYBODY.values():
        answer = client.get(f"{PREFIX}/forgotten", headers=headers)
        assert answer.status_code == 403
        assert "it is open to: no role" in answer.json()["hint"]
    assert client.get(f"{PREFIX}/forgotten").status_code == 401


def test_every_route_answers_each_role_by_what_it_says(
    client: Client, facade: FakeFacade, tmp_path: Path
) -> None:
    (tmp_path / "7.json").write_bytes(report_json(REPORT))
    for (method, path), needed in roles(client).items():
        for role, headers in EVERYBODY.items():
            before = len(facade.acts)
            sent = BODIES.get(path.removeprefix(PREFIX), {}) if method == "POST" else None
            answer = client.request(method, concrete(path), headers=headers, json=sent)
            if needed is None or role >= needed:
                assert answer.status_code not in (401, 403, 404, 405, 415, 422, 500), (
                    method,
                    path,
                    role,
                    answer.text,
                )
            else:
                assert answer.status_code == 403, (method, path, role)
                assert len(facade.acts) == before


def test_every_route_refuses_whoever_is_not_signed_in(client: Client, facade: FakeFacade) -> None:
    for (method, path), needed in roles(client).items():
        answer = client.request(method, concrete(path), json={} if method == "POST" else None)
        assert (answer.status_code != 401) is (needed is None), (method, path)
    assert facade.acts == [("wake", "", "")], "it changes nothing that anybody sees"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Understudy-User": "eve"},
        {"X-Understudy-Role": "admin"},
        {"X-Understudy-User": " ", "X-Understudy-Role": "admin"},
        {"X-Understudy-User": "eve", "X-Understudy-Role": "nobody"},
        {"X-Understudy-User": "eve", "X-Understudy-Role": "root"},
        [("X-Understudy-User", "eve"), ("X-Understudy-Role", "admin"), ("X-Understudy-Role", "reader")],
    ],
)
def test_status_with_a_broken_identity_answers_401(
    client: Client, headers: dict[str, str] | list[tuple[str, str]]
) -> None:
    answer = client.get("/understudy/status", headers=headers)

    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthenticated"


def test_health_of_nobody_is_a_bare_status_code(client: Client, facade: FakeFacade) -> None:
    healthy = client.get("/understudy/health?role=standby&max_lag=200")
    late = client.get("/understudy/health?max_lag=60")
    other = client.get("/understudy/health?role=active")
    wrong = client.get("/understudy/health?role=king")
    facade.fault = RuntimeError("ledger is gone")
    broken = client.get("/understudy/health")

    assert [answer.status_code for answer in (healthy, late, other, wrong, broken)] == [
        200,
        503,
        503,
        400,
        503,
    ]
    assert all(answer.content == b"" for answer in (healthy, late, other, wrong, broken))


def test_health_is_bad_while_images_are_refused_unless_only_the_agent_is_asked_about(
    client: Client, facade: FakeFacade
) -> None:
    facade.present = replace(facade.present, intake_refused="a disk is full")
    assert client.get("/understudy/health").status_code == 503
    assert client.get("/understudy/health?alive=true").status_code == 200
    answer = client.get("/understudy/health", headers=READER)
    assert answer.json()["reasons"] == ["new images are refused here: a disk is full"]
    assert "understudy_intake_refused 1.0" in client.get("/understudy/metrics", headers=READER).text


def test_numbers_that_nobody_knows_are_null_and_infinite_and_not_healthy(
    client: Client, facade: FakeFacade
) -> None:
    facade.present = replace(facade.present, horizon=None, lag_seconds=None, loss_seconds=None)
    status = client.get("/understudy/status", headers=READER).json()
    assert (status["lag_seconds"], status["loss_seconds"]) == (None, None)
    assert client.get("/understudy/health").status_code == 200
    assert client.get("/understudy/health?max_lag=1000000").status_code == 503
    text = client.get("/understudy/metrics", headers=READER).text
    assert "understudy_lag_seconds +Inf" in text
    assert "understudy_loss_seconds +Inf" in text


def test_health_of_a_reader_gives_the_reasons(client: Client) -> None:
    answer = client.get("/understudy/health?max_lag=60&role=active", headers=READER)

    assert answer.status_code == 503
    assert answer.json() == {
        "healthy": False,
        "mode": "standby",
        "epoch": 3,
        "lag_seconds": 135.0,
        "loss_seconds": 135.0,
        "rpo_seconds": 4.5,
        "reasons": ["the mode is standby, not active", "the mirror lags 135 s, more than 60 s"],
        "degraded": [],
    }


def test_health_with_a_wrong_configuration_is_degraded_and_not_dead(
    client: Client, facade: FakeFacade
) -> None:
    facade.present = replace(facade.present, configuration_problems=["Understudy.Sight: unknown key"])
    assert client.get("/understudy/health").status_code == 200
    answer = client.get("/understudy/health", headers=READER)
    assert (answer.status_code, answer.json()["healthy"]) == (200, True)
    assert answer.json()["degraded"] == ["Understudy.Sight: unknown key"]
    status = client.get("/understudy/status", headers=READER).json()
    assert status["configuration_problems"] == ["Understudy.Sight: unknown key"]


def test_health_is_red_and_the_mode_is_told_where_the_ledger_does_not_answer(
    client: Client, facade: FakeFacade
) -> None:
    facade.unknown_since = facade.present.now

    assert client.get("/understudy/health").status_code == 503
    told = client.get("/understudy/health?max_lag=999", headers=READER).json()
    assert told["reasons"] == [f"the ledger has not answered since {facade.present.now}: its disk hangs"]
    mode = client.get("/understudy/mode", headers=READER)
    assert (mode.status_code, mode.json()["mode"], mode.json()["epoch"]) == (200, "standby", 3)


def test_health_is_red_where_no_stored_file_can_be_read_and_the_agent_is_alive(
    client: Client, facade: FakeFacade
) -> None:
    facade.storage_unknown_since = facade.present.now

    assert client.get("/understudy/health").status_code == 503
    assert client.get("/understudy/health?alive=true").status_code == 200
    (told,) = client.get("/understudy/health", headers=READER).json()["reasons"]
    assert told.startswith(f"the volume storage has not answered since {facade.present.now}")


def test_promote_answers_the_new_mode_and_names_who(client: Client, facade: FakeFacade) -> None:
    answer = client.post("/understudy/promote", headers=OPERATOR, json={"reason": "PACS is dead", "epoch": 3})

    assert answer.status_code == 200
    assert answer.json()["mode"] == "active"
    assert answer.json()["epoch"] == 4
    assert facade.acts == [("promote", "otto", "PACS is dead force=False accept_loss=False")]


def test_promote_with_another_epoch_answers_409_and_changes_nothing(
    client: Client, facade: FakeFacade
) -> None:
    answer = client.post("/understudy/promote", headers=OPERATOR, json={"reason": "x", "epoch": 2})

    assert answer.status_code == 409
    assert answer.json() == {
        "error": "stale_epoch",
        "message": "the epoch is 3",
        "hint": "look at the status and decide again",
        "details": [],
    }
    assert facade.acts == []


def test_settle_in_standby_answers_409_with_the_modes_that_know_it(client: Client) -> None:
    answer = client.post("/understudy/failback/settle", headers=OPERATOR, json={"epoch": 3})

    assert answer.status_code == 409
    assert answer.json()["error"] == "wrong_mode"
    assert answer.json()["hint"] == "settle is possible in mode returning"


def test_promote_with_unmet_preconditions_answers_412_with_each(client: Client, facade: FakeFacade) -> None:
    facade.fault = PreconditionError("not now", "force it", ["the primary is up", "the mirror lags 135 s"])

    answer = client.post("/understudy/promote", headers=OPERATOR, json={"reason": "x", "epoch": 3})

    assert answer.status_code == 412
    assert answer.json()["error"] == "precondition_unmet"
    assert answer.json()["details"] == ["the primary is up", "the mirror lags 135 s"]


def test_failback_with_a_silent_primary_answers_503(client: Client, facade: FakeFacade) -> None:
    facade.present = replace(facade.present, mode=Mode.ACTIVE)
    facade.fault = HolderUnavailableError("primary", "connection refused", "start it")

    answer = client.post("/understudy/failback", headers=OPERATOR, json={"epoch": 3})

    assert answer.status_code == 503
    assert answer.json()["error"] == "holder_unavailable"


def test_failback_dry_run_answers_the_plan_and_begin_the_operation(
    client: Client, facade: FakeFacade
) -> None:
    facade.present = replace(facade.present, mode=Mode.ACTIVE)

    plan = client.post("/understudy/failback", headers=OPERATOR, json={"dry_run": True})
    begun = client.post("/understudy/failback", headers=OPERATOR, json={"epoch": 3})

    assert (plan.status_code, plan.json()["kind"]) == (202, "plan")
    made = client.get("/understudy/failback/plan", headers=READER)
    assert made.json()["to_send"] == {"1.2.3": 40, "1.2.4": 10}
    assert begun.status_code == 202
    assert begun.headers["location"] == "/understudy/operations/7"
    assert begun.json()["eta_seconds"] == 12.0


def test_body_with_many_faults_answers_400_with_all_of_them(client: Client, facade: FakeFacade) -> None:
    answer = client.post(
        "/understudy/promote",
        headers=OPERATOR,
        json={"reason": " ", "force": "false", "epoch": -1, "forse": True},
    )

    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"
    assert {problem.split(":")[0] for problem in answer.json()["details"]} == {
        "body.reason",
        "body.force",
        "body.epoch",
        "body.forse",
    }
    assert facade.acts == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"promote"', b"\xff\xfe", b"[" * 5000])
def test_body_that_is_no_object_answers_400(client: Client, body: bytes) -> None:
    answer = client.post(
        "/understudy/promote", headers={**OPERATOR, "Content-Type": "application/json"}, content=body
    )

    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "message", "hint", "details"}


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_post_that_a_form_could_send_answers_415(
    client: Client, facade: FakeFacade, kind: str | None
) -> None:
    headers = OPERATOR if kind is None else {**OPERATOR, "Content-Type": kind}

    answer = client.post("/understudy/promote", headers=headers, content=b'{"reason": "x", "epoch": 3}')

    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["hint"]
    assert facade.acts == []


def test_body_beyond_the_limit_answers_413(client: Client, facade: FakeFacade) -> None:
    answer = client.post(
        "/understudy/promote",
        headers={**OPERATOR, "Content-Type": "application/json"},
        content=b'{"reason": "' + b"x" * BODY_LIMIT + b'", "epoch": 3}',
    )

    assert answer.status_code == 413
    assert set(answer.json()) == {"error", "message", "hint", "details"}
    assert facade.acts == []


def test_broken_body_of_nobody_answers_401(client: Client) -> None:
    answer = client.post("/understudy/promote", headers={"Content-Type": "application/json"}, content=b"{")

    assert answer.status_code == 401


def test_query_with_an_unknown_key_answers_400(client: Client) -> None:
    answer = client.get("/understudy/obligations?stat=refused", headers=READER)

    assert answer.status_code == 400
    assert answer.json()["details"] == ["query.stat: Extra inputs are not permitted"]


def test_unknown_path_and_method_answer_the_error_shape(client: Client) -> None:
    unknown = client.get("/understudy/nothing", headers=READER)
    method = client.request("DELETE", "/understudy/status", headers=ADMIN)
    nobody = client.get("/understudy/nothing")

    assert [answer.status_code for answer in (unknown, method, nobody)] == [404, 405, 401]
    assert all(
        set(answer.json()) == {"error", "message", "hint", "details"} for answer in (unknown, method, nobody)
    )


def test_unexpected_fault_answers_an_event_number_and_logs_the_cause(
    client: Client, facade: FakeFacade, caplog: pytest.LogCaptureFixture
) -> None:
    facade.fault = RuntimeError("secret cause")
    with caplog.at_level(logging.ERROR):
        answer = client.get("/understudy/status", headers=READER)

    assert answer.status_code == 500
    (detail,) = answer.json()["details"]
    assert "secret cause" not in answer.text
    assert detail.removeprefix("event ") in caplog.text
    assert "secret cause" in caplog.text
    assert "route=/status" in caplog.text


def test_every_answer_is_hardened(client: Client) -> None:
    for path in ("/understudy/status", "/understudy/console/", "/understudy/nothing"):
        headers = client.get(path, headers=READER).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]


def test_obligations_are_filtered_by_holder_and_state(client: Client) -> None:
    refused = client.get("/understudy/obligations?holder=nas&state=refused", headers=READER).json()
    owed = client.get("/understudy/obligations?state=owed", headers=READER).json()

    assert [row["sop_instance_uid"] for row in refused] == ["1.2.3.4"]
    assert owed == []


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999999999999999"])
def test_operation_of_no_number_answers_400(client: Client, number: str) -> None:
    assert client.get(f"/understudy/operations/{number}", headers=READER).status_code == 400


def test_operation_that_is_unknown_answers_404_with_a_hint(client: Client) -> None:
    answer = client.get("/understudy/operations/8", headers=READER)

    assert answer.status_code == 404
    assert answer.json()["hint"] == "understudy operations lists them"


def test_wake_reaches_the_appliance(client: Client, facade: FakeFacade) -> None:
    # As Orthanc's plugin does it: no body, no type.
    assert client.request("POST", "/understudy/wake", headers=READER).status_code == 204
    assert facade.acts == [("wake", "", "")]


def test_metrics_name_their_units_and_every_state(client: Client) -> None:
    answer = client.get("/understudy/metrics", headers=READER)

    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'understudy_mode{mode="standby"} 1.0' in lines
    assert 'understudy_mode{mode="active"} 0.0' in lines
    assert "understudy_epoch 3.0" in lines
    assert "understudy_primary_up 1.0" in lines
    assert "understudy_lag_seconds 135.0" in lines
    assert "understudy_rpo_seconds 4.5" in lines
    assert 'understudy_obligations{holder="nas",kind="vault",state="refused"} 1.0' in lines
    assert 'understudy_oldest_owed_age_seconds{holder="nas",kind="vault"} 4.5' in lines


REPORT = Report(
    title="Failback <3>",
    kind="failback",
    site="clinic",
    started="2026-03-02T03:00:00+00:00",
    finished="2026-03-02T03:14:15+00:00",
    succeeded=True,
    outcome="50 instances are proven at the primary.",
    summary=[ReportRow("Instances sent", "50")],
    tables=[ReportTable("Studies", ["Study Instance UID", "instances"], [["../../<script>", "50"]])],
    details=["All found by IMAGE-level C-FIND."],
    hints=["Point the modalities back."],
)


def test_report_is_answered_as_page_or_json(client: Client, tmp_path: Path) -> None:
    (tmp_path / "7.json").write_bytes(report_json(REPORT))

    page = client.get("/understudy/reports/7.html", headers=READER)
    wanted = client.get("/understudy/reports/7", headers={**READER, "Accept": "text/html,*/*"})
    document = client.get("/understudy/reports/7.json", headers=READER)

    assert page.headers["content-type"].startswith("text/html")
    assert page.text == wanted.text
    assert "<script>" not in page.text
    assert "Failback &lt;3&gt;" in page.text
    assert "sha256-" in page.headers["content-security-policy"]
    assert document.json()["outcome"] == REPORT.outcome


@pytest.mark.parametrize("name", ["8", "..%2f7", "7.pdf", "07", "7.json.html", "%2e%2e"])
def test_report_that_is_not_there_answers_404(client: Client, tmp_path: Path, name: str) -> None:
    (tmp_path / "7.json").write_bytes(report_json(REPORT))

    assert client.get(f"/understudy/reports/{name}", headers=READER).status_code == 404


def test_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        ReportTable("x", ["a", "b"], [["1"]])


def test_console_has_no_inline_code_and_names_no_other_host(client: Client) -> None:
    page = client.get("/understudy/console/", headers=READER).text
    scripts = [
        client.get(f"/understudy/console/{name}.js", headers=READER).text
        for name in ("console", "flow", "words")
    ]

    assert "<style" not in page
    assert "style=" not in page
    assert "<script>" not in page
    assert all("://" not in text.replace("http://www.w3.org/2000/svg", "") for text in (page, *scripts))
    assert all("innerHTML" not in text for text in scripts)


def test_console_folder_redirects_relatively(client: Client) -> None:
    answer = client.get("/understudy/console", headers=READER)

    assert answer.status_code == 308
    assert answer.headers["location"] == "console/"


def test_docs_serve_the_local_files_of_swagger_and_nothing_else(client: Client) -> None:
    page = client.get("/understudy/docs", headers=READER)

    assert "://" not in page.text
    assert client.get("/understudy/docs/swagger-ui.css", headers=READER).text == "a{}"
    assert client.get("/understudy/docs/swagger-ui-bundle.js", headers=READER).status_code == 404
    assert client.get("/understudy/docs/7.json", headers=READER).status_code == 404


def test_openapi_describes_every_call_with_its_errors(client: Client) -> None:
    document = client.get("/understudy/openapi.json", headers=READER).json()

    described = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    hidden = {("GET", f"{PREFIX}/{path}") for path in ("console", "console/{name}", "docs/{name}")}
    assert described == set(roles(client)) - hidden
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            assert call["summary"], (method, path)
            assert call["description"], (method, path)
            assert "422" not in call["responses"], (method, path)
            assert "400" in call["responses"], (method, path)
            if path != f"{PREFIX}/health":
                assert "401" in call["responses"], (method, path)
