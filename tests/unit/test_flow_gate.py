"""The association gate: the allow-list decided and rendered, approvals, and what the edge reports."""

import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from understudy.adapters.edge import Edge, EdgeUnavailableError, Reports, parse_reports
from understudy.adapters.edge_config import (
    TEMPLATES,
    addresses_table,
    approved_json,
    devices_table,
    fill,
    listed,
    read_approved,
    render,
    write_all,
)
from understudy.adapters.ledger import Ledger
from understudy.config import ConfigurationError, Understudy, parse
from understudy.core.errors import NotFoundError
from understudy.core.gate import EVERYWHERE, Allowed, GateOutcome, Seen, Verdict, network_of, verdict
from understudy.core.model import Timestamp
from understudy.flow.gate import Gate

from tests.unit.fakes import Clock

NOW = Timestamp(1_700_000_000.0)
KEYS = Path("/var/lib/understudy-keys")

AE_TITLES = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"),
    min_size=1,
    max_size=16,
).filter(lambda text: text == text.strip())


def clinic(**more: object) -> Understudy:
    return parse({"Modalities": [{"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.20"}]} | more)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    opened.start(NOW)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("address", "calling", "called", "expected"),
    [
        ("192.0.2.20", "CT1", "ANY", Verdict.KNOWN),
        ("192.0.2.21", "CT1", "ANY", Verdict.CALLING),
        ("192.0.2.20", "ct1", "ANY", Verdict.CALLING),
        ("198.51.100.9", "MR1", "STANDBY", Verdict.KNOWN),
        ("198.51.100.9", "MR1", "OTHER", Verdict.CALLED),
        ("203.0.113.1", "MR1", "STANDBY", Verdict.CALLING),
        ("2001:db8::1", "US1", "ANY", Verdict.KNOWN),
        ("", "US1", "ANY", Verdict.CALLING),
    ],
)
def test_verdict_needs_address_and_both_ae_titles(
    address: str, calling: str, called: str, expected: Verdict
) -> None:
    allowed = [
        Allowed("CT1", "192.0.2.20/32"),
        Allowed("MR1", "198.51.100.0/24", "STANDBY"),
        *(Allowed("US1", network) for network in EVERYWHERE),
    ]
    assert verdict(allowed, address=address, calling=calling, called=called) is expected


def test_listed_takes_addresses_else_an_address_as_host_else_everywhere() -> None:
    configuration = clinic(
        Primary={"AeTitle": "PACS", "Host": "pacs.example.org", "Addresses": ["192.0.2.10", "2001:db8::/64"]},
        Modalities=[
            {"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.20"},
            {"Name": "mr1", "AeTitle": "MR1", "Host": "mr1.example.org"},
            {"Name": "us1", "AeTitle": "US1", "Host": "192.0.2.30", "Addresses": ["192.0.2.17/28"]},
        ],
        Destinations=[
            {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "192.0.2.40"},
            {"Name": "mute", "AeTitle": "MUTE", "Host": "192.0.2.41", "Proof": "inventory"},
            {"Name": "cloud", "Url": "https://archive.example.org/dicom-web"},
        ],
    )
    assert listed(configuration) == [
        Allowed("CT1", "192.0.2.20/32"),
        *(Allowed("MR1", network) for network in EVERYWHERE),
        Allowed("US1", "192.0.2.16/28"),
        # It reports on storage commitment.
        Allowed("ARCHIVE", "192.0.2.40/32"),
        Allowed("PACS", "192.0.2.10/32"),
        Allowed("PACS", "2001:db8::/64"),
    ]
    assert addresses_table(listed(configuration)) == [
        "192.0.2.10/32",
        "192.0.2.16/28",
        "192.0.2.20/32",
        "192.0.2.40/32",
        "2001:db8::/64",
    ]


@given(
    entries=st.lists(
        st.builds(
            Allowed,
            AE_TITLES,
            st.ip_addresses().map(str).map(network_of),
            st.none() | AE_TITLES,
        ),
        max_size=8,
    )
)
def test_devices_table_holds_every_entry_and_no_syntax(entries: list[Allowed]) -> None:
    """A nasty AE title neither breaks a line of the table nor reaches its separators."""
    read_back = set()
    for calling, text in devices_table(entries).items():
        assert re.fullmatch(r"[0-9A-F]{2,32}", calling)
        assert re.fullmatch(r"[0-9a-f:./]+\|(\*|[0-9A-F]+)(,[0-9a-f:./]+\|(\*|[0-9A-F]+))*", text)
        for entry in text.split(","):
            network, called = entry.split("|")
            read_back.add(
                Allowed(
                    bytes.fromhex(calling).decode(),
                    network,
                    None if called == "*" else bytes.fromhex(called).decode(),
                )
            )
    assert read_back == set(entries)


@given(ae_title=AE_TITLES)
def test_render_is_the_same_whatever_devices_are_called(ae_title: str) -> None:
    configuration = clinic(Modalities=[{"Name": "x", "AeTitle": ae_title, "Host": "192.0.2.1"}])
    assert render(configuration, KEYS) == render(clinic(), KEYS)


def test_render_closes_the_gate_only_where_strangers_are_not_accepted() -> None:
    rule = "set-var(txn.outcome) str(refused_calling) if"
    assert rule not in render(clinic(), KEYS)
    assert rule in render(clinic(Policy={"AcceptStrangers": False}), KEYS)


def test_render_opens_the_tls_port_with_an_authority_and_may_close_the_other(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    tls = f"bind :2762 ssl crt {KEYS}/tls/https.pem ca-file {tmp_path}/ca.pem verify required"
    assert "2762" not in render(clinic(), KEYS, tmp_path)
    both = render(clinic(DicomTls={"ClientCa": "ca.pem"}), KEYS, tmp_path)
    assert tls in both
    assert "bind :4242" in both
    alone = render(clinic(DicomTls={"ClientCa": str(tmp_path / "ca.pem"), "Required": True}), KEYS)
    assert tls in alone
    assert "bind :4242" not in alone


@pytest.mark.parametrize("name", ["absent.pem", "a b.pem", "x\n    bind :1.pem", "'.pem", "${HOME}.pem"])
def test_render_refuses_an_authority_that_is_absent_or_has_syntax_in_its_name(
    tmp_path: Path, name: str
) -> None:
    if name != "absent.pem":
        (tmp_path / name).write_text("x")
    with pytest.raises(ConfigurationError, match="ClientCa"):
        render(clinic(DicomTls={"ClientCa": name}), KEYS, tmp_path)


@pytest.mark.parametrize(
    "section",
    [
        {"DicomTls": {"Required": True}},
        {"Edge": {"Associations": 10, "AssociationsOfDevice": 10}},
        {"Edge": {"Associations": 10, "AssociationsOfStrangers": 11}},
        {"Modalities": [{"Name": "x", "AeTitle": "X", "Host": "x", "Addresses": ["x.example.org"]}]},
    ],
)
def test_configuration_that_locks_out_or_leaves_no_reserve_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        parse(section)


def test_fill_refuses_a_word_too_many_on_either_side() -> None:
    assert fill("a @ONE@ b", {"ONE": "@TWO@"}) == "a @TWO@ b"
    for values in ({}, {"ONE": "", "TWO": ""}):
        with pytest.raises(ValueError, match="differ"):
            fill("a @ONE@ b", values)


def test_gate_refuses_with_the_pdu_that_dicom_prescribes() -> None:
    """PS3.8 table 9-21: result, source and reason, in this order."""
    script = (TEMPLATES / "gate.lua").read_text()
    said = re.findall(r'^refusal\("(\w+)", (\d), (\d), (\d)\)$', script, re.MULTILINE)
    assert {name: tuple(map(int, numbers)) for name, *numbers in said} == {
        "refuse_calling": (1, 1, 3),
        "refuse_called": (1, 1, 7),
        "refuse_for_now": (2, 3, 2),
    }


def test_write_all_writes_configured_and_approved_devices(tmp_path: Path) -> None:
    shared, target = tmp_path / "shared", tmp_path / "live"
    shared.mkdir()
    approved = [Allowed("NEW 1", "192.0.2.99/32", "STANDBY")]
    (shared / "approved.json").write_bytes(approved_json(approved))
    assert read_approved(shared / "approved.json") == approved

    write_all(clinic(), KEYS, tmp_path, shared, target)

    assert (target / "devices.map").read_text().splitlines() == [
        "435431 192.0.2.20/32|*",
        "4E45572031 192.0.2.99/32|5354414E444259",
    ]
    assert (target / "addresses.acl").read_text().splitlines() == ["192.0.2.20/32", "192.0.2.99/32"]
    assert "frontend dicom" in (target / "haproxy.cfg").read_text()


def test_write_all_names_a_broken_file_of_approvals(tmp_path: Path) -> None:
    (tmp_path / "approved.json").write_text("[1")
    with pytest.raises(ConfigurationError, match=r"approved\.json"):
        write_all(clinic(), KEYS, tmp_path, tmp_path, tmp_path / "live")


def report(**changes: object) -> bytes:
    said = {
        "event": "seen",
        "address": "192.0.2.20",
        "calling": "CT1",
        "called": "STANDBY",
        "outcome": "accepted",
        "tls": False,
    }
    return json.dumps(said | changes).encode()


def test_reports_tell_associations_attempts_and_failed_handshakes() -> None:
    nobody = {"calling": "", "called": ""}
    told = [
        report(),
        report(event="end"),
        report(event="end", outcome="", **nobody),
        report(event="error", outcome="tls_failed", reason="handshake", certificate=10, tls=True, **nobody),
    ]
    seen = list(parse_reports(told))
    assert [one.outcome for one in seen] == [
        GateOutcome.ACCEPTED,
        GateOutcome.NO_ASSOCIATION,
        GateOutcome.TLS_FAILED,
    ]
    assert seen[0] == Seen("CT1", "STANDBY", "192.0.2.20", False, GateOutcome.ACCEPTED)
    assert seen[2].reason == "the client's certificate has expired"


@given(noise=st.binary(max_size=200) | st.builds(lambda text: json.dumps(text).encode(), st.text()))
def test_reports_that_are_not_ours_say_nothing(noise: bytes) -> None:
    assert not list(parse_reports([noise, report(outcome="nonsense"), report(tls="yes", address=None)[:20]]))


def test_reports_are_read_without_waiting_and_lost_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as edge:
        reports = Reports(tmp_path)
        assert reports.read(10) == []
        for _ in range(3):
            edge.sendto(report(), str(tmp_path / "reports.sock"))
        assert len(reports.read(2)) == 2
        assert len(reports.read(2)) == 1
        reports.close()
        # The next agent takes the name over.
        again = Reports(tmp_path)
        edge.sendto(report(), str(tmp_path / "reports.sock"))
        assert len(again.read(2)) == 1
        again.close()


def seen(calling: str, outcome: GateOutcome, address: str = "192.0.2.20") -> Seen:
    return Seen(calling, "STANDBY", address, False, outcome)


def test_ledger_counts_what_became_of_each_device(ledger: Ledger) -> None:
    ledger.note_seen([seen("CT1", GateOutcome.ACCEPTED)] * 3, NOW)
    ledger.note_seen(
        [seen("CT1", GateOutcome.REFUSED_LIMIT), seen("X", GateOutcome.REFUSED_CALLING)], Timestamp(NOW + 5)
    )

    views = {
        view.calling_ae_title: view for view in ledger.modalities(lambda _, calling, __: calling == "CT1")
    }

    assert (views["CT1"].associations, views["CT1"].refused, views["CT1"].outcome) == (3, 1, "refused_limit")
    assert (views["CT1"].known, views["X"].known) == (True, False)
    assert views["CT1"].first_seen < views["CT1"].last_seen
    assert (views["X"].associations, views["X"].refused, views["X"].instances) == (0, 1, 0)


def test_ledger_forgets_the_oldest_of_too_many_strangers(ledger: Ledger) -> None:
    for moment in range(3):
        batch = [seen(f"S{moment}-{number}", GateOutcome.REFUSED_CALLING) for number in range(500)]
        ledger.note_seen(batch, Timestamp(NOW + moment))
    names = {view.calling_ae_title for view in ledger.modalities(lambda *_: False)}
    assert len(names) == 1000
    assert not any(name.startswith("S0-") for name in names)


class FakeEdge:
    """Takes the list, or is not there."""

    def __init__(self) -> None:
        self.runs = True
        self.published: list[list[Allowed]] = []

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None:
        if not self.runs:
            raise EdgeUnavailableError("not there")
        self.published.append([*configured, *approved])


def test_gate_approves_durably_and_tells_an_edge_that_was_away_later(ledger: Ledger) -> None:
    edge, known, new = FakeEdge(), Allowed("CT1", "192.0.2.20/32"), Allowed("NEW", "192.0.2.0/24", "STANDBY")
    reports = [[seen("NEW", GateOutcome.REFUSED_CALLING)]]
    gate = Gate(
        ledger,
        edge,
        Clock(NOW),
        [known],
        unavailable=EdgeUnavailableError,
        read_reports=lambda _: reports.pop() if reports else [],
    )
    gate.step()
    gate.step()
    assert edge.published == [[known]]
    assert [view.known for view in gate.modalities()] == [False]

    edge.runs = False
    assert gate.approve("anna", new) is False
    assert ledger.approvals() == [new]
    assert [view.known for view in gate.modalities()] == [True]
    edge.runs = True
    gate.step()
    assert edge.published[-1] == [known, new]

    assert gate.approve("anna", new) is True
    assert ledger.approvals() == [new]
    assert gate.revoke("anna", new) is True
    assert edge.published[-1] == [known]
    with pytest.raises(NotFoundError):
        gate.revoke("anna", new)
    assert ledger.broken_event() is None


def test_edge_that_does_not_run_keeps_the_list_for_its_start(tmp_path: Path) -> None:
    approved = [Allowed("NEW", "192.0.2.0/24")]
    with pytest.raises(EdgeUnavailableError):
        Edge(tmp_path).publish([], approved)
    assert read_approved(tmp_path / "approved.json") == approved
