"""Wakes the agent when instances arrive. A wake may get lost, because the agent polls as well."""

import threading
from collections.abc import Callable

QUIET_SECONDS = 0.2
"""One wake stands for all instances that arrive in this time."""


class Waker:
    """Calls `wake` from its own thread after `notice`, at most once in `quiet` seconds."""

    def __init__(self, wake: Callable[[], None], quiet: float = QUIET_SECONDS) -> None:
        self._wake = wake
        self._quiet = quiet
        self._noticed = threading.Event()
        self._stopping = threading.Event()
        # A daemon thread, because Orthanc's stop must never wait for the agent.
        self._thread = threading.Thread(target=self._run, name="understudy-wake", daemon=True)

    def start(self) -> None:
        """Begin to wait for notices."""
        self._thread.start()

    def notice(self) -> None:
        """Note that an instance arrived; never blocks."""
        self._noticed.set()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread, and wait at most `timeout` seconds for a wake that is under way.

        A thread that runs on after Orthanc has ended Python would crash the process.
        """
        self._stopping.set()
        self._noticed.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._noticed.wait()
            if self._stopping.is_set():
                return
            self._noticed.clear()
            self._wake()
            self._stopping.wait(self._quiet)
