"""The association gate: the allow-list decided and rendered, approvals, and what the edge reports."""

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from understudy.adapters.edge import (
    EdgeLink,
    EdgeUnavailableError,
    HandshakeReports,
    parse_counts,
    parse_reports,
)
from understudy.adapters.edge_config import (
    CONTROL,
    TEMPLATES,
    addresses_table,
    approved_json,
    devices_table,
    fill,
    hosts_by_name,
    listed,
    read_approved,
    read_names,
    render,
    write_all,
)
from understudy.adapters.in_force import InForce
from understudy.adapters.keys import USERS
from understudy.config import ConfigurationError, Understudy, parse
from understudy.core.errors import NotFoundError
from understudy.core.gate import (
    EVERYWHERE,
    HINTS,
    NOWHERE,
    UNKNOWN,
    Admission,
    Allowed,
    GateOutcome,
    Seen,
    certificate_of,
    network_of,
    verdict,
)
from understudy.core.model import Timestamp
from understudy.flow.gate import Gate
from understudy.flow.names import HostNames
from understudy.ledger import Ledger

from tests.unit.fakes import Clock, new_instance, note

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
    opened.modes.start(NOW)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("address", "calling", "called", "expected"),
    [
        ("192.0.2.20", "CT1", "ANY", Admission.KNOWN),
        ("192.0.2.21", "CT1", "ANY", Admission.ADDRESS),
        ("192.0.2.20", "ct1", "ANY", Admission.CALLING),
        ("192.0.2.21", "ct1", "ANY", Admission.ADDRESS),
        ("192.0.2.21", "CT2", "ANY", Admission.CALLING),
        ("198.51.100.9", "MR1", "STANDBY", Admission.KNOWN),
        ("198.51.100.9", "MR1", "OTHER", Admission.CALLED),
        ("203.0.113.1", "MR1", "STANDBY", Admission.ADDRESS),
        ("192.0.2.20", "WS1", "ANY", Admission.ADDRESS),
        ("192.0.2.20", "NM1", "ANY", Admission.CALLING),
        ("2001:db8::1", "US1", "ANY", Admission.KNOWN),
        ("", "US1", "ANY", Admission.CALLING),
    ],
)
def test_verdict_needs_address_and_both_ae_titles(
    address: str, calling: str, called: str, expected: Admission
) -> None:
    allowed = [
        Allowed("CT1", "192.0.2.20/32"),
        Allowed("MR1", "198.51.100.0/24", "STANDBY"),
        *(Allowed("US1", network) for network in EVERYWHERE),
        Allowed("WS1", NOWHERE),
        Allowed("NM1", UNKNOWN),
    ]
    assert verdict(allowed, address=address, calling=calling, called=called) is expected


def test_listed_takes_addresses_else_those_of_the_host_and_never_everywhere() -> None:
    configuration = clinic(
        Primary={"AeTitle": "PACS", "Host": "pacs.example.org", "Addresses": ["192.0.2.10", "2001:db8::/64"]},
        Modalities=[
            {"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.20"},
            {"Name": "mr1", "AeTitle": "MR1", "Host": "mr1.example.org"},
            {"Name": "nm1", "AeTitle": "NM1", "Host": "nm1.example.org"},
            {"Name": "ws1", "AeTitle": "WS1", "Host": "ws1.example.org", "Reads": True},
            {"Name": "us1", "AeTitle": "US1", "Host": "192.0.2.30", "Addresses": ["192.0.2.17/28"]},
        ],
        Destinations=[
            {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "archive"},
            {"Name": "mute", "AeTitle": "MUTE", "Host": "192.0.2.41", "Proof": "inventory"},
            {"Name": "cloud", "Url": "https://archive.example.org/dicom-web"},
        ],
    )
    allowed = listed(configuration, {"mr1.example.org": ["192.0.2.50/32", "2001:db8:1::5/128"]})
    assert allowed == [
        Allowed("CT1", "192.0.2.20/32"),
        Allowed("MR1", "192.0.2.50/32"),
        Allowed("MR1", "2001:db8:1::5/128"),
        # It may only store: until its name is known it is a stranger. The others are refused until then.
        Allowed("NM1", UNKNOWN),
        Allowed("WS1", NOWHERE),
        Allowed("US1", "192.0.2.16/28"),
        # It reports on storage commitment.
        Allowed("ARCHIVE", NOWHERE),
        Allowed("PACS", "192.0.2.10/32"),
        Allowed("PACS", "2001:db8::/64"),
    ]
    assert addresses_table(allowed) == [
        "192.0.2.10/32",
        "192.0.2.16/28",
        "192.0.2.20/32",
        "192.0.2.50/32",
        "2001:db8:1::5/128",
        "2001:db8::/64",
    ]
    assert hosts_by_name(configuration) == [
        "archive",
        "mr1.example.org",
        "nm1.example.org",
        "ws1.example.org",
    ]


def test_every_device_of_a_readers_title_is_trusted_with_it() -> None:
    """Orthanc gives all devices of one AE title what any of them may."""
    devices = [
        {"Name": "ws1", "AeTitle": "WS1", "Host": "192.0.2.1", "Reads": True},
        {"Name": "ct1", "AeTitle": "ws1", "Host": "ct1.example.org"},
    ]
    assert listed(clinic(Modalities=devices), {}) == [Allowed("WS1", "192.0.2.1/32"), Allowed("ws1", NOWHERE)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ct1.example.org", "C6374312E6578616D706C652E6F7267"),
        ("ab" * 32, "F" + "AB" * 32),
        (":".join(["AB"] * 32), "F" + "AB" * 32),
        ("Röntgen 1", "C" + "Röntgen 1".encode().hex().upper()),
    ],
)
def test_certificate_is_named_by_fingerprint_or_common_name(text: str, named: str) -> None:
    assert certificate_of(text) == named
    tls = {"DicomTls": {"ClientCa": "ca.pem"}}
    device = {"Name": "x", "AeTitle": "X", "Host": "192.0.2.1", "ClientCertificate": text}
    assert listed(clinic(Modalities=[device], **tls), {}) == [Allowed("X", "192.0.2.1/32", None, named)]
    with pytest.raises(ConfigurationError, match="ClientCa"):
        clinic(Modalities=[device])


@pytest.mark.parametrize(
    "text", ["fe80::1%25eth0", "fe80::1%eth0", "fe80::/64%1", "ct1.example.org", "1.2.3", ""]
)
def test_address_that_the_edge_cannot_load_is_refused_wherever_it_enters(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network_of(text)
    with pytest.raises(ConfigurationError):
        clinic(Modalities=[{"Name": "x", "AeTitle": "X", "Host": "192.0.2.1", "Addresses": [text]}])
    # As a host it is a name, and is looked up.
    device = {"Name": "x", "AeTitle": "X", "Host": text or "x"}
    assert listed(clinic(Modalities=[device]), {}) == [Allowed("X", UNKNOWN)]


def test_primary_is_listed_with_every_title_that_it_calls_with() -> None:
    primary = {"AeTitle": "PACS", "Host": "192.0.2.10", "CallingAeTitles": ["ROUTER"]}
    assert listed(clinic(Primary=primary), {})[1:] == [
        Allowed("PACS", "192.0.2.10/32"),
        Allowed("ROUTER", "192.0.2.10/32"),
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
    for key, text in devices_table(entries).items():
        assert re.fullmatch(r"[0-9A-F]{2,32}", key)
        for entry in text.split(","):
            network, calling, called, certificate = entry.split("|")
            assert re.fullmatch(r"[0-9a-f:./]+", network)
            assert bytes.fromhex(calling).decode().lower() == bytes.fromhex(key).decode()
            assert certificate == "*"
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


@pytest.mark.parametrize(("memory", "largest"), [("", 219), ("2g", 219), ("4g", 512)])
def test_largest_body_follows_from_the_memory_of_orthanc(
    monkeypatch: pytest.MonkeyPatch, memory: str, largest: int
) -> None:
    monkeypatch.setenv("UNDERSTUDY_ORTHANC_MEMORY", memory)
    assert f"if {{ req.body_size gt {largest * 2**20} }}" in render(clinic(), KEYS)


def test_memory_of_orthanc_that_is_no_size_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ORTHANC_MEMORY", "much")
    with pytest.raises(ConfigurationError, match="UNDERSTUDY_ORTHANC_MEMORY"):
        render(clinic(), KEYS)


def test_render_closes_the_gate_only_where_strangers_are_not_accepted() -> None:
    load = f"lua-load {TEMPLATES}/gate.lua /run/understudy-intake/refuse-intake /tmp/edge/devices.map "
    revoked = f" {KEYS}/revoked-certificates\n"
    assert load + "accepted" + revoked in render(clinic(), KEYS)
    assert load + "refused" + revoked in render(clinic(Policy={"AcceptStrangers": False}), KEYS)


def test_render_opens_the_tls_port_with_an_authority_and_may_close_the_other() -> None:
    tls = f"bind :2762 ssl crt {KEYS}/tls/https.pem ca-file /tmp/edge/client-ca.pem verify required"
    assert "2762" not in render(clinic(), KEYS)
    both = render(clinic(DicomTls={"ClientCa": "ca.pem"}), KEYS)
    assert tls in both
    assert "bind :4242" in both
    alone = render(clinic(DicomTls={"ClientCa": "ca.pem", "Required": True}), KEYS)
    assert tls in alone
    assert "bind :4242" not in alone


@pytest.mark.parametrize("name", ["a b.pem", "x\n    bind :1.pem", "'.pem", "${HOME}.pem"])
def test_no_name_of_an_authority_reaches_the_syntax_of_haproxy(name: str) -> None:
    assert render(clinic(DicomTls={"ClientCa": name}), KEYS) == render(
        clinic(DicomTls={"ClientCa": "ca.pem"}), KEYS
    )


@pytest.mark.parametrize(
    "section",
    [
        {"DicomTls": {"Required": True}},
        {"Edge": {"Associations": 10, "AssociationsOfDevice": 10, "AssociationsOfStrangers": 0}},
        {"Edge": {"Associations": 10, "AssociationsOfDevice": 5, "AssociationsOfStrangers": 5}},
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


def test_write_all_writes_configured_and_approved_devices(tmp_path: Path) -> None:
    shared, target = tmp_path / "shared", tmp_path / "live"
    shared.mkdir()
    approved = [Allowed("NEW 1", "192.0.2.99/32", "STANDBY")]
    (shared / "approved.json").write_bytes(approved_json(approved))
    assert read_approved(shared / "approved.json") == approved

    (tmp_path / USERS).write_text(
        "userlist understudy\n    group admin users anna\n    user anna password x\n"
    )

    write_all(InForce(clinic(), {"understudy.json": "{}"}, "PEM"), tmp_path, shared, target)

    assert (target / "devices.map").read_text().splitlines() == [
        "637431 192.0.2.20/32|435431|*|*",
        "6E65772031 192.0.2.99/32|4E45572031|5354414E444259|*",
    ]
    assert (target / "addresses.acl").read_text().splitlines() == ["192.0.2.20/32", "192.0.2.99/32"]
    assert "frontend dicom" in (target / "haproxy.cfg").read_text()
    assert (target / "client-ca.pem").read_text() == "PEM"


@pytest.mark.parametrize(
    "content",
    [
        "[1",
        "{}",
        "null",
        "[1]",
        '[["A", "fe80::1%25eth0", null]]',
        '[["A", "192.0.2.1/33", null]]',
        '[["A", 1, 2]]',
    ],
)
def test_approval_that_cannot_be_loaded_is_said_and_keeps_the_edge_from_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "approved.json").write_text(content)
    (tmp_path / USERS).write_text(
        "userlist understudy\n    group admin users anna\n    user anna password x\n"
    )
    write_all(InForce(clinic(), {}, None), tmp_path, tmp_path, tmp_path / "live")
    assert "637431" in (tmp_path / "live" / "devices.map").read_text()
    assert "approved.json" in caplog.text


def test_names_that_cannot_be_loaded_are_said_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "names.json").write_text('{"a": ["192.0.2.1/32", "fe80::1%1"], "b": 5}')
    assert read_names(tmp_path / "names.json") == {"a": ["192.0.2.1/32"]}
    assert "names.json" in caplog.text


def report(**changes: object) -> bytes:
    return json.dumps({"address": "192.0.2.20", "reason": "handshake", "certificate": 0} | changes).encode()


def test_reports_tell_of_failed_handshakes() -> None:
    seen = list(parse_reports([report(), report(certificate=10), report(address="192.0.2.21")]))
    assert seen[0] == Seen("", "", "192.0.2.20", True, GateOutcome.TLS_FAILED, "handshake")
    assert seen[1].reason == "the client's certificate has expired"
    assert seen[2].address == "192.0.2.21"


def test_counts_tell_device_outcome_and_reason() -> None:
    lines = [
        "60 192.0.2.20\t0\taccepted\tCT1\tSTANDBY\t",
        "28 192.0.2.9\t1\trefused_request\tX Y\t\ta blank called AE title",
        "",
    ]
    assert list(parse_counts(lines)) == [
        Seen("CT1", "STANDBY", "192.0.2.20", False, GateOutcome.ACCEPTED, "", 60),
        Seen("X Y", "", "192.0.2.9", True, GateOutcome.REFUSED_REQUEST, "a blank called AE title", 28),
    ]


@pytest.mark.parametrize("wrong", ["x", "1 a\tb", "1 a\t0\tnonsense\ta\tb\tc", "1 a\t0\t\t\t\t"])
def test_count_that_is_not_as_ours_keeps_no_other_from_being_counted(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = "2 192.0.2.20\t0\taccepted\tCT1\tSTANDBY\t"
    assert [one.number for one in parse_counts([wrong, good])] == [2]
    assert "left out" in caplog.text


@given(noise=st.binary(max_size=200) | st.builds(lambda text: json.dumps(text).encode(), st.text()))
def test_reports_that_are_not_ours_say_nothing(noise: bytes) -> None:
    assert not list(parse_reports([noise, report()[:20]]))


def test_reports_are_read_without_waiting_and_lost_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as edge:
        reports = HandshakeReports(tmp_path)
        assert reports.read(10) == []
        for _ in range(3):
            edge.sendto(report(), str(tmp_path / "reports.sock"))
        assert len(reports.read(2)) == 2
        assert len(reports.read(2)) == 1
        reports.close()
        # The next agent takes the name over.
        again = HandshakeReports(tmp_path)
        edge.sendto(report(), str(tmp_path / "reports.sock"))
        assert len(again.read(2)) == 1
        again.close()


def seen(calling: str, outcome: GateOutcome, address: str = "192.0.2.20") -> Seen:
    return Seen(calling, "STANDBY", address, False, outcome)


def test_ledger_counts_what_became_of_each_device(ledger: Ledger) -> None:
    ledger.devices.note_seen([seen("CT1", GateOutcome.ACCEPTED)] * 3, NOW)
    ledger.devices.note_seen(
        [seen("CT1", GateOutcome.REFUSED_LIMIT), seen("X", GateOutcome.REFUSED_CALLING)], Timestamp(NOW + 5)
    )

    views = {
        view.calling_ae_title: view
        for view in ledger.devices.modalities(lambda _, calling, __: calling == "CT1")
    }

    assert (views["CT1"].associations, views["CT1"].refused, views["CT1"].outcome) == (3, 1, "refused_limit")
    assert (views["CT1"].known, views["X"].known) == (True, False)
    assert views["CT1"].first_seen < views["CT1"].last_seen
    assert (views["X"].associations, views["X"].refused, views["X"].instances) == (0, 1, 0)


def test_ledger_forgets_the_oldest_of_too_many_strangers(ledger: Ledger) -> None:
    for moment in range(3):
        batch = [seen(f"S{moment}-{number}", GateOutcome.REFUSED_CALLING) for number in range(500)]
        ledger.devices.note_seen(batch, Timestamp(NOW + moment))
    names = {view.calling_ae_title for view in ledger.devices.modalities(lambda *_: False)}
    assert len(names) == 1000
    assert not any(name.startswith("S0-") for name in names)


def test_ledger_forgets_no_listed_device_for_invented_titles(ledger: Ledger) -> None:
    def known(address: str, calling: str, called: str) -> bool:
        return calling == "CT1"

    ledger.devices.note_seen([seen("CT1", GateOutcome.ACCEPTED)], NOW, known=known)
    for moment in range(3):
        batch = [seen(f"S{moment}-{number}", GateOutcome.ACCEPTED) for number in range(700)]
        ledger.devices.note_seen(batch, Timestamp(NOW + 1 + moment), known=known)
    views = {view.calling_ae_title: view for view in ledger.devices.modalities(known)}
    assert len(views) == 1000
    assert views["CT1"].associations == 1


class FakeEdge:
    """Takes the list and counts, or is not there."""

    def __init__(self) -> None:
        self.runs = True
        self.start = 5
        self.published: list[list[Allowed]] = []
        self.waiting: list[Seen] = []
        self.batch = 0

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None:
        if not self.runs:
            raise EdgeUnavailableError("not there")
        self.published.append([*configured, *approved])

    def counted(self, noted: int) -> tuple[int, Sequence[Seen]]:
        if not self.runs:
            raise EdgeUnavailableError("not there")
        begin = self.start * 1_000_000
        if noted == begin + self.batch:
            self.waiting = []
        return begin + self.batch, self.waiting

    def count(self, *seen: Seen) -> None:
        self.waiting = list(seen)
        self.batch += 1


def gate_of(ledger: Ledger, edge: FakeEdge, clock: Clock, *configured: Allowed) -> Gate:
    return Gate(
        ledger.devices,
        edge,
        clock,
        lambda: configured,
        unavailable=EdgeUnavailableError,
        read_reports=lambda _: (),
    )


def test_gate_approves_durably_and_tells_an_edge_that_was_away_later(ledger: Ledger) -> None:
    edge, known, new = FakeEdge(), Allowed("CT1", "192.0.2.20/32"), Allowed("NEW", "192.0.2.0/24", "STANDBY")
    gate = gate_of(ledger, edge, Clock(NOW), known)
    edge.count(seen("NEW", GateOutcome.REFUSED_CALLING))
    gate.step()
    gate.step()
    assert edge.published == [[known]]
    assert [view.known for view in gate.modalities()] == [False]

    edge.runs = False
    assert gate.approve("anna", new) is False
    assert ledger.devices.approvals() == [new]
    assert [view.known for view in gate.modalities()] == [True]
    edge.runs = True
    gate.step()
    assert edge.published[-1] == [known, new]

    assert gate.approve("anna", new) is True
    assert ledger.devices.approvals() == [new]
    assert gate.revoke("anna", new) is True
    assert edge.published[-1] == [known]
    with pytest.raises(NotFoundError):
        gate.revoke("anna", new)
    assert ledger.events.broken() is None


def test_gate_counts_a_batch_once_however_often_it_is_told(ledger: Ledger) -> None:
    edge = FakeEdge()
    edge.count(
        replace(seen("CT1", GateOutcome.REFUSED_LIMIT), number=28, reason="x"),
        replace(seen("CT1", GateOutcome.ACCEPTED), number=32),
    )
    for _ in range(2):
        # One agent after the other: the first was killed between the ledger and the edge.
        edge.batch, told = 1, edge.waiting
        gate_of(ledger, edge, Clock(NOW)).step()
        edge.waiting = told
    (view,) = ledger.devices.modalities(lambda *_: True)
    assert (view.associations, view.refused, view.outcome, view.reason) == (32, 28, "refused_limit", "x")


def test_list_that_the_edge_does_not_take_is_an_alarm_until_it_does(ledger: Ledger) -> None:
    edge, clock = FakeEdge(), Clock(NOW)
    gate = gate_of(ledger, edge, clock, Allowed("CT1", "192.0.2.20/32"))
    gate.step()
    edge.runs = False
    gate.approve("anna", Allowed("NEW", "192.0.2.9/32"))
    gate.step()
    # A restart takes this long.
    assert gate.alarms() == []
    clock.advance(6)
    gate.step()
    (alarm,) = gate.alarms()
    assert alarm.what.startswith("the edge accepts no command, so the allow-list is not in force")
    assert "restart edge" in alarm.hint
    edge.runs = True
    gate.step()
    assert gate.alarms() == []


def test_edge_that_cannot_be_asked_is_an_alarm_though_nothing_changed(ledger: Ledger) -> None:
    edge, clock = FakeEdge(), Clock(NOW)
    gate = gate_of(ledger, edge, clock)
    gate.step()
    edge.runs = False
    gate.step()
    clock.advance(6)
    assert [alarm.what for alarm in gate.alarms()] == ["the edge accepts no command"]
    edge.runs = True
    gate.step()
    assert gate.alarms() == []


def test_listed_title_that_is_refused_is_an_alarm_for_an_hour_or_until_it_is_approved(ledger: Ledger) -> None:
    edge, clock = FakeEdge(), Clock(NOW)
    gate = gate_of(ledger, edge, clock, Allowed("CT1", "192.0.2.20/32"))
    moved = [seen("CT1", GateOutcome.REFUSED_ADDRESS, f"192.0.2.{host}") for host in (31, 32, 33, 34)]
    edge.count(*moved, seen("[b]X", GateOutcome.REFUSED_CERTIFICATE), seen("Y", GateOutcome.REFUSED_CALLING))
    gate.step()
    by_address, by_certificate = gate.alarms()
    assert "(refused address): CT1 from 192.0.2." in by_address.what
    assert by_address.what.endswith(" and 1 more")
    assert "understudy approve AE_TITLE ADDRESS" in by_address.hint
    assert "[b]X from 192.0.2.20" in by_certificate.what
    for host in (31, 32, 33):
        gate.approve("anna", Allowed("CT1", f"192.0.2.{host}/32"))
    assert "CT1 from 192.0.2.34" in gate.alarms()[0].what
    assert "more" not in gate.alarms()[0].what
    clock.advance(3601)
    assert gate.alarms() == []


def test_every_refusal_has_a_hint_and_none_repeats_what_the_peer_said(ledger: Ledger) -> None:
    assert set(HINTS) == set(GateOutcome) - {GateOutcome.ACCEPTED}
    ledger.devices.note_seen([seen("`reboot`", GateOutcome.REFUSED_CALLING)], NOW)
    (view,) = gate_of(ledger, FakeEdge(), Clock()).modalities()
    assert view.hint == HINTS[GateOutcome.REFUSED_CALLING]


def test_caller_that_was_never_let_in_sent_nothing(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    ledger.devices.note_seen([seen("CT1", GateOutcome.ACCEPTED)], NOW)
    ledger.devices.note_seen([seen("CT1", GateOutcome.REFUSED_ADDRESS, "192.0.2.66")], NOW)
    sent = {view.remote_address: view.instances for view in ledger.devices.modalities(lambda *_: True)}
    assert sent == {"192.0.2.20": 1, "192.0.2.66": 0}


def test_edge_that_was_started_again_is_told_the_whole_list(ledger: Ledger) -> None:
    edge, known = FakeEdge(), Allowed("CT1", "192.0.2.20/32")
    gate = gate_of(ledger, edge, Clock(NOW), known)
    gate.step()
    gate.step()
    assert len(edge.published) == 1
    edge.start = 9
    gate.step()
    assert edge.published == [[known], [known]]


def test_approval_of_an_earlier_version_that_the_edge_cannot_load_is_an_alarm(ledger: Ledger) -> None:
    edge = FakeEdge()
    ledger.devices.approve(Allowed("US1", "fe80::1%25eth0"), "anna", NOW)
    gate = gate_of(ledger, edge, Clock(NOW))
    gate.step()
    assert edge.published == [[]]
    assert gate.modalities() == []
    (alarm,) = gate.alarms()
    assert "US1 at fe80::1%25eth0" in alarm.what


class KeptNames:
    """The file of names."""

    def __init__(self, **names: list[str]) -> None:
        self.names: Mapping[str, Sequence[str]] = names

    def read(self) -> Mapping[str, Sequence[str]]:
        return self.names

    def write(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)


def test_names_count_as_they_were_when_the_name_service_last_answered() -> None:
    answers: dict[str, list[str]] = {"a": ["192.0.2.1/32", "fe80::1%1"]}
    changes: list[str] = []

    def resolve(host: str) -> list[str]:
        if host not in answers:
            raise OSError("no such name")
        return answers[host]

    file = KeptNames(b=["192.0.2.2/32"], gone=["192.0.2.9/32"])
    clock = Clock(NOW)
    names = HostNames(["a", "b", "c"], resolve, file, clock, lambda: changes.append("x"))
    assert names.found == {"b": ("192.0.2.2/32",)}
    names.step()
    assert names.found == {"a": ("192.0.2.1/32",), "b": ("192.0.2.2/32",)} == file.names
    assert names.alarms() == []
    clock.advance(61)
    assert [alarm.what.split(" is")[0] for alarm in names.alarms()] == ["the address of c"]
    names.step()
    assert changes == ["x"]
    # An outage takes the name service along.
    answers.clear()
    names.step()
    assert names.found["a"] == ("192.0.2.1/32",)
    answers["c"] = ["192.0.2.3/32"]
    names.step()
    assert names.alarms() == []
    assert len(changes) == 2


class OneAnswer(threading.Thread):
    """A control socket that gives one answer to one command."""

    def __init__(self, path: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self._answer = answer
        self.asked = b""

    def run(self) -> None:
        connection, _ = self._socket.accept()
        with connection, self._socket:
            self.asked = connection.recv(1000)
            connection.sendall(self._answer)


class Commands(threading.Thread):
    """A control socket that takes every command, and keeps how long each was."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self.lengths: list[int] = []

    def run(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                asked = connection.recv(1 << 20)
                self.lengths.append(len(asked))
                if asked.startswith(b"prepare"):
                    connection.sendall(b"New version created: 1\n")
                if asked.startswith(b"commit acl"):
                    return


def test_allow_list_of_any_size_goes_in_commands_that_fit(tmp_path: Path) -> None:
    commands = Commands(tmp_path / CONTROL)
    commands.start()
    allowed = [
        Allowed(f"DEVICE {number}", f"2001:db8:1:2:3:4:{part:x}:{number:x}/128", "STANDBY", "F" + "AB" * 32)
        for number in range(10)
        for part in range(100)
    ]
    EdgeLink(tmp_path).publish(allowed[:500], allowed[500:])
    commands.join(60)
    assert max(commands.lengths) < 40_000
    assert sum(commands.lengths) > 130_000


def test_counts_are_read_as_the_edge_writes_them(tmp_path: Path) -> None:
    # The last line ends with an empty reason.
    answer = OneAnswer(tmp_path / CONTROL, b"1000002\n60 192.0.2.20\t0\taccepted\tCT1\tX\t\nend\n\n")
    answer.start()
    batch, (counted,) = EdgeLink(tmp_path).counted(1_000_001)
    answer.join()
    assert answer.asked == b"show associations 1000001\n"
    assert (batch, counted.number, counted.reason) == (1_000_002, 60, "")


def test_counts_that_are_cut_off_are_not_noted(tmp_path: Path) -> None:
    answer = OneAnswer(tmp_path / CONTROL, b"1000002\n60 192.0.2.20\t0\taccepted\tCT1\tX\t\n\n")
    answer.start()
    with pytest.raises(EdgeUnavailableError, match="cut off"):
        EdgeLink(tmp_path).counted(1_000_001)
    answer.join()


def test_edge_that_does_not_run_keeps_the_list_for_its_start(tmp_path: Path) -> None:
    approved = [Allowed("NEW", "192.0.2.0/24")]
    with pytest.raises(EdgeUnavailableError):
        EdgeLink(tmp_path).publish([], approved)
    assert read_approved(tmp_path / "approved.json") == approved
