"""The appliance that all attackers of one run share."""

from collections.abc import Iterator

import pytest

from tests.adversary.clinic import Clinic


@pytest.fixture(scope="package")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """An appliance on its defaults that knows two devices here and three elsewhere."""
    clinic = Clinic(tmp_path_factory.mktemp("adversary"))
    clinic.stack.down()
    try:
        clinic.stack.up()
        yield clinic
    except Exception:
        print(clinic.stack.logs())
        raise
    finally:
        clinic.stack.down()
