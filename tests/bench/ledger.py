"""The ledger with three holders, beside the same rows written by plain sqlite3 with the same durability."""

from tests.bench.measured import Figure, label
from tests.bench.parts import inside, network

USUAL = 1_000_000
_PLAIN = "the same rows by sqlite3's executemany: no indexes, history, checks"


def ledger(instances: int) -> list[Figure]:
    """Measure noting, claiming, status and size; names of figures tell a number that is not the usual one."""
    with network() as attached:
        measured = inside("ledger", {"instances": instances}, attached=attached, timeout=7200)
    ours, peer = measured["ours"], measured["peer"]
    ending = "" if instances == USUAL else f"_{label(instances)}"
    claim = f"a plain UPDATE of 100 rows (our look at what is due before it: {ours['due_p99']:.3g} ms, p99)"

    def figure(name: str, unit: str, against: str, asked: str, *, less_is_better: bool) -> Figure:
        conditions = f"{instances} instances, 3 holders; asked for: {asked}"
        full = f"ledger_{name}{ending}"
        return Figure(full, ours[name], peer[name], unit, against, less_is_better, conditions)

    counted = "SELECT count(*) ... GROUP BY over the same rows"
    return [
        figure("note", "instances/s", _PLAIN, "5000 or more", less_is_better=False),
        figure("claim_p99", "ms", claim, "under 20", less_is_better=True),
        figure("status", "ms", counted, "under 50", less_is_better=True),
        figure("bytes", "bytes an obligation", "the same rows", "under 300", less_is_better=True),
    ]
