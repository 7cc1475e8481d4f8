"""What all unit tests share: what was compiled or made for the ledger of one test serves the others."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine
from understudy.ledger import database
from understudy.ledger.migration import bring_up_to_date

from tests.ledgers import share_compiled

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
