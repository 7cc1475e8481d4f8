"""The agent's process: runs the workers and serves the API on Unix sockets until it is told to stop.

Rule 1: its own socket makes an administrator of everybody who reaches it: this container and the host's root.
On the sockets of edge and Orthanc only a signature of the edge counts.
"""

import logging
import os
import socket
import sys
import time
from pathlib import Path

import uvicorn

from understudy import __version__
from understudy.adapters.in_force import HINT, KEPT, WRONG, InForce, choose
from understudy.adapters.keys import SHARES, KeysError, keep_configuration, signing_key
from understudy.adapters.writer import WriterError
from understudy.config import ConfigurationError
from understudy.core.ports import SealError
from understudy.core.text import visible
from understudy.ledger import DamagedLedgerError, LedgerVersionError, MigrationError
from understudy.web.application import application
from understudy.web.identity import Doorkeeper
from understudy.wiring import Places, wire

_log = logging.getLogger("understudy")

_REFUSALS = (KeysError, WriterError, SealError, DamagedLedgerError, LedgerVersionError, MigrationError)
"""Why a start is refused; each has a hint."""

_STOP_SECONDS = 10.0
_LAST_ANSWERS_SECONDS = 5
"""How long the workers may take to end their steps, and before that the last calls to be answered; together
below the stop time-out of the compose file."""


def main() -> int:
    """Run the agent; return its exit status."""
    _configure_logging()
    places = Places()
    try:
        runs = choose(places.configuration, places.keys / KEPT)
        appliance, workers = wire(runs.configuration, places, runs)
        doorkeeper = Doorkeeper(places.socket, signing_key(places.keys), time.time, time.monotonic)
    except ConfigurationError as error:
        for problem in error.problems:
            _log.error("configuration %s", problem)
        return 1
    except _REFUSALS as error:
        _log.error("start failed because=%s hint=%s", error, error.hint)
        return 1
    if (places.state / "first-start.json").exists():
        _log.warning(
            "first start: `docker compose exec agent understudy first-start` shows the administrator's "
            "password, the certificate's fingerprint and the vault's private key once, and destroys them"
        )
    # Only now: it is in order for the agent as well.
    keep(places.keys, runs)
    mode = appliance.ledger.modes.current()
    _log.info(
        "start version=%s site=%s mode=%s epoch=%d",
        __version__,
        runs.configuration.site,
        mode.mode.value,
        mode.epoch,
    )
    os.umask(0o007)
    sockets = [_listen(places.socket, 0o600)]
    for path in map(places.socket_of, SHARES):
        if os.access(path.parent, os.W_OK):
            sockets.append(_listen(path, 0o660))
        else:
            _log.warning("no volume for %s: the compose file is of an earlier version", path)
    server = uvicorn.Server(
        uvicorn.Config(
            application(appliance, __version__, doorkeeper),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
        )
    )
    appliance.pulse.step()
    workers.start()
    try:
        server.run(sockets)
    finally:
        workers.stop(_STOP_SECONDS)
        appliance.suspects.stopped()
        appliance.ledger.close()
    return 0


def keep(keys: Path, runs: InForce) -> None:
    """Keep the configuration that runs, and say what is wrong with the one in the folder."""
    try:
        keep_configuration(keys, runs.kept())
    except OSError as error:
        # A disk that is full must not keep the agent from starting.
        _log.error("configuration not kept because=%s", error)
    for problem in runs.problems:
        _log.error("configuration %s: %s hint=%s", WRONG, problem, HINT)


def _listen(path: Path, mode: int) -> socket.socket:
    """Return a socket at the path that the mode lets others connect to."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(mode)
    return listening


class OneLine(logging.Formatter):
    """Makes one line of every record: no value begins a line of its own or moves a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the lines of a traceback stand beside one another."""
        return visible(super().format(record).replace("\n", " | "))


def _configure_logging() -> None:
    formatter = OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Their messages can quote what a data set says; ours say what happened.
    for noisy in ("pynetdicom", "pydicom", "httpx", "httpcore", "botocore", "boto3", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
