"""Makes HTTP requests by a grammar of what the edge serves: odd spellings, forged headers, sizes, bodies."""

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

_PATHS = [
    "/understudy/status",
    "/understudy/health",
    "/understudy/mode",
    "/understudy/metrics",
    "/understudy/modalities",
    "/understudy/promote",
    "/understudy/failback",
    "/understudy/failback/settle",
    "/understudy/obligations/waive",
    "/understudy/operations",
    "/understudy/operations/1",
    "/understudy/wake",
    "/understudy/console/",
    "/understudy/docs",
    "/understudy/events",
    "/understudy/deletions",
    "/ohif/",
    "/ohif/viewer",
    "/system",
    "/statistics",
    "/changes",
    "/studies",
    "/patients",
    "/series",
    "/instances",
    "/modalities",
    "/tools/find",
    "/tools/lookup",
    "/tools/shutdown",
    "/tools/reset",
    "/tools/execute-script",
    "/tools/bulk-delete",
    "/tools/dicom-echo",
    "/tools/log-level",
    "/tools/create-dicom",
    "/tools/create-archive",
    "/plugins",
    "/peers",
    "/jobs",
    "/exports",
    "/app/explorer.html",
    "/queries",
    "/storage-commitment",
    "/dicom-web/studies",
    "/dicom-web/series",
    "/dicom-web/instances",
    "/dicom-web/servers",
    "/wado",
    "/instances/{}/preview",
    "/instances/{}/rendered",
    "/instances/{}/file",
    "/instances/{}/frames/0/rendered",
    "/instances/{}/frames/9/raw",
    "/instances/{}/modify",
    "/instances/{}/anonymize",
    "/studies/{}/archive",
    "/studies/{}/modify",
    "/studies/{}",
    "/studies/{}/media",
    "/instances/{}/attachments/dicom/data",
    "/instances/{}/metadata/9999",
]
_QUERIES = [
    "",
    "?_method=DELETE",
    "?width=40000&height=40000",
    "?viewport=40000,40000",
    "?window=1,1",
    "?limit=1000000",
    "?expand",
    "?full",
    "?quality=100000",
    "?requestedTags=PatientName",
    "?transcode=1.2.840.10008.1.2.4.90",
    "?PatientName=*&includefield=all",
    "?fuzzymatching=true&limit=-1",
    "?since=-1&limit=99999999",
    "?%5f%6dethod=PUT",
]
_METHODS = (
    "GET",
    "GET",
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "FOO",
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it goes over the wire."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = field(default=b"", repr=False)

    def encoded(self, authorization: str) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: edge:8443", "Connection: close"]
        if authorization:
            lines.append(f"Authorization: Basic {authorization}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in self.headers):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


def _spelled(chance: random.Random, path: str) -> str:
    act = chance.randrange(9)
    place = chance.randrange(1, len(path)) if len(path) > 1 else 1
    if act == 0:
        return path[:place] + f"%{ord(path[place]) if place < len(path) else 65:02x}" + path[place + 1 :]
    if act == 1:
        return path.replace("/", "//", chance.randrange(1, 3))
    if act == 2:
        return "/x/.." + path
    if act == 3:
        return (
            path[:place]
            + chance.choice(["/./", "/../", "%2e%2e/", "%2f", ";x=", "%00", "%0a", "\\"])
            + path[place:]
        )
    if act == 4:
        return path.upper()
    if act == 5:
        return path + chance.choice(["/", "%20", "?", "#", "/%252e%252e/", ".json"])
    return path


def random_request(chance: random.Random, instances: Sequence[str]) -> HttpRequest:
    """Return a request by the grammar; `instances` are Orthanc's identifiers of what is there."""
    identifier = chance.choice([*instances, "0" * 44, "..", "%2e%2e", "a" * 3000])
    path = _spelled(chance, chance.choice(_PATHS).replace("{}", identifier))
    headers: list[tuple[str, str]] = []
    for _ in range(chance.choice([0, 0, 1, 2])):
        headers.append(
            chance.choice(
                [
                    ("X-Understudy-User", "admin"),
                    ("X-Understudy-Role", "admin"),
                    ("x-understudy-role", "agent"),
                    ("X-Understudy-Signature", "0" * 64),
                    ("X-HTTP-Method-Override", "DELETE"),
                    ("Authorization", "Basic " + base64.b64encode(b"admin:admin").decode()),
                    ("Transfer-Encoding", "chunked"),
                    ("Transfer-Encoding", "identity, chunked"),
                    ("Content-Length", "0"),
                    ("Content-Length", "-1"),
                    ("Content-Length", "99999999999"),
                    ("Expect", "100-continue"),
                    ("Forwarded", "host=evil"),
                    ("Range", "bytes=0-0," * 200),
                    (
                        "Accept",
                        'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90',
                    ),
                    ("Accept", "image/jpeg"),
                    ("Upgrade", "h2c"),
                    ("Content-Type", chance.choice(["application/json", "application/dicom", "text/plain"])),
                    ("X-" + "y" * 3000, "z"),
                    ("Cookie", "a=b;" * 500),
                ]
            )
        )
    body = chance.choice(
        [
            b"",
            b"",
            b"{}",
            b"[" * chance.choice([10, 200, 20_000]),
            b'{"a":' * chance.choice([10, 200, 20_000]),
            json.dumps({"Level": "Instance", "Query": {"PatientName": "*" * chance.randrange(300)}}).encode(),
            json.dumps({"Resources": list(instances[:3])}).encode(),
            json.dumps({"reason": "[/red]\x1b", "force": True, "epoch": chance.randrange(-5, 99)}).encode(),
            chance.randbytes(200),
            b"\xff" * 100_000,
        ]
    )
    return HttpRequest(chance.choice(_METHODS), path + chance.choice(_QUERIES), headers, body)
