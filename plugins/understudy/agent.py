"""The agent's process: runs the workers and serves the API on a Unix socket until it is told to stop."""

import logging
import os
import sys
import time

import uvicorn

from understudy import __version__, config
from understudy.adapters.keys import KeysError
from understudy.adapters.ledger import DamagedLedgerError, LedgerVersionError, MigrationError
from understudy.web.application import application
from understudy.wiring import Places, wire

_log = logging.getLogger("understudy")

_STOP_SECONDS = 20.0
"""How long the workers may take to end their steps; below the stop time-out of the compose file."""


def main() -> int:
    """Run the agent; return its exit status."""
    _configure_logging()
    places = Places()
    try:
        configuration = config.load(places.configuration)
        appliance, workers = wire(configuration, places)
    except config.ConfigurationError as error:
        for problem in error.problems:
            _log.error("configuration %s", problem)
        return 1
    except (KeysError, DamagedLedgerError, LedgerVersionError, MigrationError) as error:
        _log.error("start failed because=%s hint=%s", error, error.hint)
        return 1
    if (places.state / "first-start.json").exists():
        _log.warning(
            "first start: `docker compose exec agent understudy first-start` shows the administrator's "
            "password, the certificate's fingerprint and the vault's private key once, and destroys them"
        )
    mode = appliance.ledger.mode()
    _log.info(
        "start version=%s site=%s mode=%s epoch=%d",
        __version__,
        configuration.site,
        mode.mode.value,
        mode.epoch,
    )
    places.socket.unlink(missing_ok=True)
    os.umask(0o007)
    server = uvicorn.Server(
        uvicorn.Config(
            application(appliance, __version__),
            uds=str(places.socket),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
    workers.start()
    try:
        server.run()
    finally:
        workers.stop(_STOP_SECONDS)
        appliance.ledger.close()
    return 0


def _configure_logging() -> None:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Their messages can quote what a data set says; ours say what happened.
    for noisy in ("pynetdicom", "pydicom", "httpx", "httpcore", "botocore", "boto3", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
