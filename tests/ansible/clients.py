"""Clients of the clinic's network: DICOM by pynetdicom, HTTPS by httpx, TLS by Python's own."""

import socket
import ssl
import warnings
from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

_TIMEOUT = 20


def echo(
    host: str,
    port: int,
    *,
    calling: str,
    called: str = "STANDBY",
    over: ssl.SSLContext | None = None,
    seconds: float = 0.5,
) -> int | None:
    """Return the status of a C-ECHO, by TLS if a context is given; None where there was no association.

    Nor is there one where nobody accepts the connection within `seconds`.
    """
    # pynetdicom leaves the socket of a refused connection open.
    if not is_open(host, port, seconds=seconds):
        return None
    entity = _entity(calling)
    entity.add_requested_context(Verification)
    association = entity.associate(host, port, ae_title=called, tls_args=(over, host) if over else None)
    if not association.is_established:
        return None
    try:
        return int(association.send_c_echo().Status)
    finally:
        association.release()


def store(
    host: str, port: int, files: Iterable[Path], *, calling: str, called: str = "STANDBY"
) -> list[int | None]:
    """Return the status of the C-STORE of each file; None where no answer came."""
    datasets = [pydicom.dcmread(file) for file in files]
    entity = _entity(calling)
    for dataset in datasets:
        if all(context.abstract_syntax != dataset.SOPClassUID for context in entity.requested_contexts):
            entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate(host, port, ae_title=called)
    if not association.is_established:
        return [None] * len(datasets)
    try:
        answers = [association.send_c_store(dataset) for dataset in datasets]
        return [int(answer.Status) if "Status" in answer else None for answer in answers]
    finally:
        association.release()


def studies(host: str, port: int, *, calling: str, called: str = "STANDBY") -> list[str]:
    """Return the Study Instance UIDs that a C-FIND for all studies lists."""
    entity = _entity(calling)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = ""
    association = entity.associate(host, port, ae_title=called)
    assert association.is_established, "no association"
    try:
        answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        return [str(found.StudyInstanceUID) for status, found in answers if found is not None]
    finally:
        association.release()


def _entity(calling: str) -> AE:
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _TIMEOUT
    return entity


def is_open(host: str, port: int, *, seconds: float = 0.5) -> bool:
    """Say whether somebody accepts a TCP connection."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def tls(host: str, port: int, version: ssl.TLSVersion, ciphers: str = "") -> str | None:
    """Return the cipher that a handshake of this one version ends with, or None where it is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        # Old versions are asked for on purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
    try:
        with socket.create_connection((host, port), _TIMEOUT) as plain, context.wrap_socket(plain) as line:
            cipher = line.cipher()
            return cipher[0] if cipher else None
    except (ssl.SSLError, ConnectionError):
        return None
