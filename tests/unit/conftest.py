"""What unit tests share: an appliance; what was compiled or made for the ledger of one test serves others."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine
from understudy.ledger import database
from understudy.ledger.migration import bring_up_to_date

from tests.ledgers import share_compiled

if TYPE_CHECKING:
    from understudy.flow.appliance import Appliance

share_compiled()


@cache
def _new_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite")
        engine = database._engine(path, foreign_keys=False)
        bring_up_to_date(engine, path)
        engine.dispose()
        return path.read_bytes()


def _begin(engine: Engine, path: Path) -> None:
    """Bring a ledger up to date; a new one is a copy, since many tests begin with one."""
    if path.exists():
        bring_up_to_date(engine, path)
    else:
        path.write_bytes(_new_file())


database.bring_up_to_date = _begin  # type: ignore[attr-defined]


@pytest.fixture
def appliance(tmp_path: Path) -> "Iterator[Appliance]":
    """Wire the real appliance as the agent does; no worker runs, and nobody is at the other addresses."""
    # Here, because few tests need these, and they take long to import.
    from understudy.adapters.encryption import new_key_pair
    from understudy.adapters.writer import make_writer
    from understudy.config import parse
    from understudy.wiring import wire
    from understudy.wiring.base import Places

    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "agent").write_text("secret")
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault-recipient").write_text(new_key_pair().recipient)
    make_writer(tmp_path, tmp_path)
    configuration = parse(
        {
            "Primary": {"AeTitle": "PACS", "Host": "192.0.2.10"},
            "Destinations": [{"Name": "archive", "AeTitle": "ARCHIVE", "Host": "192.0.2.30"}],
            "Vaults": [{"Name": "nas", "Directory": str(tmp_path / "vault")}],
        }
    )
    places = Places(
        state=tmp_path,
        keys=tmp_path,
        storage=tmp_path,
        index=tmp_path,
        socket=tmp_path / "agent.sock",
        host=tmp_path,
        edge=tmp_path,
    )
    appliance, _ = wire(configuration, places)
    yield appliance
    appliance.ledger.close()
