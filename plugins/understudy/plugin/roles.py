"""Decides which role may call which of Orthanc's REST paths. One table allows calls; all others are refused.

The method is the effective one: Orthanc turns `GET ...?_method=DELETE` and `X-HTTP-Method-Override` into a
DELETE before it calls its filter (Orthanc, HttpServer.cpp, ExtractMethod).
"""

import re
from enum import Enum


class CallerRole(Enum):
    """A person's role, as the edge names it, or `agent` for our own process, which is no administrator."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"
    AGENT = "agent"


class Method(Enum):
    """The methods that Orthanc's REST knows; the values are those of OrthancPluginHttpMethod."""

    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4


_READS = (
    (Method.GET, r"/(patients|studies|series|instances)(/.*)?"),
    (Method.GET, r"/dicom-web/(studies|series|instances)(/.*)?"),
    (Method.GET, r"/wado"),
    (Method.GET, r"/ohif(/.*)?"),
    (Method.GET, r"/(system|statistics|changes)"),
    (Method.GET, r"/jobs(/.*)?"),
    (Method.GET, r"/tools/(now|now-local|metrics-prometheus|dicom-conformance)"),
    # Searches are POSTs that change nothing.
    (Method.POST, r"/tools/(find|count-resources|lookup|bulk-content)"),
    # The agent decides by the role that is passed on.
    *((method, r"/understudy/.+") for method in Method),
)

_STORES = (
    (Method.POST, r"/instances"),
    # STOW-RS (DICOM PS3.18 10.5): with and without a study.
    (Method.POST, r"/dicom-web/studies(/[^/]+)?"),
)

_EVERYTHING = tuple((method, r"/.*") for method in Method)

_AGENT = (
    # The agent can read the stored files from their volume anyway, so reading calls give it no more rights.
    (Method.GET, r"/(patients|studies|series|instances)(/.*)?"),
    (Method.GET, r"/(system|statistics|changes|tools/metrics-prometheus)"),
    (Method.GET, r"/storage-commitment/[^/]+"),
    (Method.POST, r"/tools/(bulk-content|lookup)"),
    # Restore and heal store files again.
    (Method.POST, r"/instances"),
    # Heal replaces a damaged file. A person deletes through the agent, which records who deleted what.
    (Method.DELETE, r"/(patients|studies|series|instances)/[^/]+"),
    (Method.POST, r"/tools/bulk-delete"),
)
"""Exactly the calls that the agent makes (adapters/orthanc.py), because this is the account of a program."""

_TABLE = {
    CallerRole.READER: _READS,
    CallerRole.OPERATOR: _READS + _STORES,
    CallerRole.ADMIN: _EVERYTHING,
    CallerRole.AGENT: _AGENT,
}

_NEVER_FOR_PEOPLE = (
    # Only the host's administrator may stop or empty Orthanc, or run code in it.
    *((method, r"/tools/(reset|shutdown|execute-script)") for method in Method),
    # DICOM logs at TRACE level hold patients' names.
    *((method, r"/tools/log-level.*") for method in Method),
    # Configuration comes only from orthanc-config; a change here would silently be lost at a restart.
    (Method.PUT, r"/tools/.*"),
    (Method.PUT, r"/(modalities|peers)/[^/]+"),
    (Method.DELETE, r"/(modalities|peers)/[^/]+"),
    (Method.PUT, r"/dicom-web/servers/[^/]+"),
    (Method.DELETE, r"/dicom-web/servers/[^/]+"),
    # The agent follows this feed.
    (Method.DELETE, r"/changes"),
    # A deletion is an act with a reason and an event: POST /understudy/deletions, `understudy delete`.
    (Method.DELETE, r"/(patients|studies|series|instances)/[^/]+"),
    (Method.DELETE, r"/dicom-web/.*"),
    (Method.POST, r"/tools/bulk-delete"),
    # These can remove the original, or change a stored file, without the ledger's knowledge.
    (Method.POST, r"/(patients|studies|series)/[^/]+/(modify|anonymize|split|merge|reconstruct)"),
    (Method.POST, r"/instances/[^/]+/reconstruct"),
    (Method.POST, r"/tools/(bulk-modify|bulk-anonymize|reconstruct)"),
    (Method.POST, r"/(patients|studies|series|instances)/[^/]+/attachments/[^/]+/(compress|uncompress)"),
)


def _matches(lines: tuple[tuple[Method, str], ...], method: Method, path: str) -> bool:
    return any(method is line_method and re.fullmatch(pattern, path) for line_method, pattern in lines)


def canonical_path(path: str) -> str | None:
    """Return the path as Orthanc resolves it, or None if Orthanc could resolve it in another way."""
    if not path.startswith("/") or "//" in path or not path.isprintable():
        return None
    if any(part in (".", "..") for part in path.split("/")):
        return None
    return path.rstrip("/") or "/"


def allowed(role: CallerRole, method: Method, path: str) -> bool:
    """Return whether the role may call the path (decoded, without its query) by the effective method."""
    canonical = canonical_path(path)
    if canonical is None:
        return False
    if role is not CallerRole.AGENT and _matches(_NEVER_FOR_PEOPLE, method, canonical):
        return False
    return _matches(_TABLE[role], method, canonical)


def stores(method: Method, path: str) -> bool:
    """Return whether the call adds instances; such a call is refused while stores are not durable."""
    canonical = canonical_path(path)
    return canonical is not None and _matches(_STORES, method, canonical)
