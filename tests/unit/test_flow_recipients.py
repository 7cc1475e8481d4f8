"""A vault's recipients are pinned: who replaces the file that names them reads nothing, and is seen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.adapters.encryption import AgeOpener, AgeSealer, new_key_pair
from understudy.adapters.keys import RECIPIENT
from understudy.adapters.storage import StorageArea
from understudy.config import parse
from understudy.core.errors import RefusedError
from understudy.core.model import HolderName
from understudy.core.ports import HolderUnavailableError, SealError
from understudy.core.signature import fingerprint
from understudy.flow.recipients import PinnedSealer
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger
from understudy.system.spool import Spool
from understudy.wiring.base import Base, Places, open_base
from understudy.wiring.delivery import pinned_sealers

from tests.vault_parts import Bench, StillClock, bench

OURS, THIEF = new_key_pair(), new_key_pair()
NAME = HolderName("local")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "agent").write_text("secret")
    (tmp_path / RECIPIENT).write_text(OURS.recipient + "\n")
    places = Places(state=tmp_path, keys=tmp_path, storage=tmp_path)
    found = open_base(parse({"Vaults": [{"Name": NAME, "Directory": "/x"}]}), places)
    yield found
    found.ledger.close()
    found.orthanc.close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "bench") as made:
        yield made


def restarted(base: Base) -> PinnedSealer:
    """Return who seals for the vault after a start of the agent."""
    return pinned_sealers(base)[NAME]


def events(ledger: Ledger) -> list[tuple[str, str]]:
    """Return who changed recipients and why, from the event log."""
    with ledger.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT who, fields FROM events WHERE kind = 'recipients'")
        return [(row.who, row.fields) for row in rows]


@pytest.mark.parametrize("when", ["before a start", "while it runs"])
@pytest.mark.parametrize(
    "content", [THIEF.recipient + "\n", "", None, "\xff"], ids=["another", "empty", "absent", "unreadable"]
)
def test_replaced_recipient_is_an_alarm_and_nothing_is_sealed(
    base: Base, when: str, content: str | None
) -> None:
    sealer = restarted(base)
    assert AgeOpener(OURS.identity).open(sealer.seal(b"x")) == b"x"
    path = base.places.keys / RECIPIENT
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="latin-1")
    if when == "before a start":
        sealer = restarted(base)
    (alarm,) = sealer.alarms()
    assert fingerprint([OURS.recipient]) in alarm.hint
    with pytest.raises(HolderUnavailableError, match="were changed"):
        sealer.seal(b"x")
    assert list(sealer.recipients) == [OURS.recipient]
    path.write_text(OURS.recipient + "\n")
    assert sealer.alarms() == ()
    assert AgeOpener(OURS.identity).open(sealer.seal(b"x")) == b"x"


def test_recipients_that_a_person_accepts_are_pinned_with_the_reason(base: Base) -> None:
    sealer = restarted(base)
    with pytest.raises(RefusedError, match="are the pinned ones"):
        sealer.accept("anna", "nothing has changed")
    (base.places.keys / RECIPIENT).write_text(THIEF.recipient)
    assert sealer.accept("anna", "a new safe") == fingerprint([THIEF.recipient])
    assert (sealer.alarms(), restarted(base).alarms()) == ((), ())
    assert AgeOpener(THIEF.identity).open(restarted(base).seal(b"x")) == b"x"
    assert [who for who, _ in events(base.ledger)] == ["understudy", "anna"]
    assert "a new safe" in events(base.ledger)[1][1]


def test_what_is_no_recipient_is_not_accepted(base: Base) -> None:
    sealer = restarted(base)
    (base.places.keys / RECIPIENT).write_text("age1nonsense")
    with pytest.raises(RefusedError, match="not valid"):
        sealer.accept("anna", "a slip")
    assert list(sealer.recipients) == [OURS.recipient]


def test_recipients_in_the_configuration_count_and_their_change_is_an_event(base: Base) -> None:
    restarted(base)
    vault = {"Name": NAME, "Directory": "/x", "Recipients": [THIEF.recipient]}
    configured = replace(base, configuration=parse({"Vaults": [vault]}))
    sealer = restarted(configured)
    assert (list(sealer.recipients), sealer.alarms()) == ([THIEF.recipient], ())
    (base.places.keys / RECIPIENT).write_text("age1nonsense")
    assert sealer.alarms() == ()
    assert [who for who, _ in events(base.ledger)] == ["understudy", "configuration"]
    # Without them the file counts again, and is not what is pinned.
    assert len(restarted(base).alarms()) == 1


def test_start_without_any_recipient_is_refused_by_name(base: Base) -> None:
    (base.places.keys / RECIPIENT).unlink()
    with pytest.raises(SealError, match="no age recipient"):
        restarted(base)


def test_vault_whose_recipients_were_changed_stores_nothing_and_is_owed(parts: Bench) -> None:
    given = [parts.keys.recipient]
    sealer = PinnedSealer(NAME, lambda: given, AgeSealer, parts.ledger, StillClock(), configured=False)
    files = StorageArea(parts.storage.root)
    settings = VaultSettings(NAME, "clinic", None)
    vault = Vault(
        settings, files, parts.store, sealer, parts.ledger.packs, StillClock(), Spool(parts.folder, 2**20)
    )
    assert fingerprint(given) in vault.proof.because
    given = [THIEF.recipient]
    with pytest.raises(HolderUnavailableError, match="recipients"):
        list(vault.deliver(parts.storage.series("changed")))
    assert parts.stored("") == []
