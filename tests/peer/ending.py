"""How a connection is ended without a release."""

import socket
import struct

from tests.peer.script import Ending

_ABORTS = {Ending.ABORT: 0, Ending.PROVIDER_ABORT: 2}
"""Source of an A-ABORT (DICOM PS3.8 9.3.8)."""


def end(connection: socket.socket, ending: Ending) -> None:
    """End the connection."""
    if ending is Ending.RESET:
        # Closing without lingering sends RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return
    if ending in _ABORTS:
        connection.sendall(struct.pack(">BBLBBBB", 0x07, 0, 4, 0, 0, _ABORTS[ending], 0))
    elif ending is Ending.GARBAGE:
        connection.sendall(b"\xff" * 64)
    connection.shutdown(socket.SHUT_RDWR)
