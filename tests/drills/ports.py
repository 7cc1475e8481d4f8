"""A port of this machine for a service whose address has to stay when it is started again."""

import random
import socket


def lasting_port() -> int:
    """Return a port that nobody listens on, and that neither the kernel nor Docker gives to anybody.

    Those that they choose themselves begin at 32768 (/proc/sys/net/ipv4/ip_local_port_range).
    """
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError("no port between 20000 and 30000 is free")
