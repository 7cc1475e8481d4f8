"""Wakes the agent when instances arrive: a hint that may be lost, because the agent polls as well."""

import threading
from collections.abc import Callable

QUIET_SECONDS = 0.2
"""One wake stands for all instances that arrive in this time."""


class Waker:
    """Calls `wake` from one thread of its own after `notice`, at most once in the quiet time."""

    def __init__(self, wake: Callable[[], None], quiet: float = QUIET_SECONDS) -> None:
        self._wake = wake
        self._quiet = quiet
        self._noticed = threading.Event()
        self._stopping = threading.Event()
        # A daemon: Orthanc's own stop must never wait for the agent.
        self._thread = threading.Thread(target=self._run, name="understudy-wake", daemon=True)

    def start(self) -> None:
        """Begin to wait for notices."""
        self._thread.start()

    def notice(self) -> None:
        """Say that something arrived; never blocks."""
        self._noticed.set()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread, waiting at most `timeout` seconds for a wake that is under way.

        A thread that came back after Orthanc has ended Python would end the process by a fault.
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
