"""The `Understudy` section of the configuration: one typed schema that refuses unknown keys."""

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import json5
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_pascal
from pydantic_core import SchemaError, SchemaValidator, core_schema

from understudy.adapters import dictionary
from understudy.core import rules
from understudy.core.gate import certificate_of, network_of
from understudy.core.schedule import Hours, longest_closed

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}")


class ConfigurationError(Exception):
    """The configuration cannot be used; `problems` lists every fault found, each with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.hint = "fix every line above in the folder orthanc-config and start again"


def _ae_title(value: str) -> str:
    if not value.strip() or value != value.strip():
        raise ValueError("an AE title neither is blank nor begins or ends with a blank (DICOM PS3.5 6.2)")
    if not value.isascii() or not value.isprintable() or "\\" in value:
        raise ValueError("an AE title is printable ASCII without a backslash (DICOM PS3.5 6.2)")
    return value


AeTitle = Annotated[
    str,
    Field(min_length=1, max_length=16, description="DICOM AE title, 1 to 16 characters."),
    AfterValidator(_ae_title),
]
Port = Annotated[int, Field(ge=1, le=65535, description="TCP port.")]
Host = Annotated[str, Field(min_length=1, description="Host name or IP address.", examples=["192.0.2.10"])]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9-]{0,30}$", description="Short name: lower-case letters, digits and hyphens."
    ),
]
Network = Annotated[
    str,
    Field(description="IP address or network.", examples=["192.0.2.0/28"]),
    AfterValidator(network_of),
]
Addresses = Annotated[
    list[Network],
    Field(
        # All addresses are on one line of the edge's table, and the line has to fit into the edge's buffer.
        max_length=100,
        description="Addresses and networks from which it connects. If absent, the addresses of `Host` "
        "count: a host name is looked up, and the last result counts while the name service does not "
        "answer.",
    ),
]


def _client_certificate(text: str) -> str:
    certificate_of(text)
    return text


ClientCertificate = Annotated[
    str | None,
    Field(
        description="Common name or SHA-256 fingerprint of the client certificate that it has to "
        "present. It is then accepted only over TLS and with this certificate.",
        examples=["ct1.example.org"],
    ),
    AfterValidator(lambda text: None if text is None else _client_certificate(text)),
]


def _time_zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{name!r} is no time zone of the IANA database") from None


TimeZone = Annotated[str, AfterValidator(_time_zone)]
Seconds = Annotated[float, Field(gt=0, description="Seconds.")]
Associations = Annotated[
    int,
    Field(
        ge=1,
        le=16,
        description="Number of associations (with DICOMweb: connections) that send to it at the same "
        "time. Up to five more ask at the same time what it has, but none if this is 1.",
    ),
]


class _Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, extra="forbid", frozen=True)


class Tls(_Section):
    """TLS 1.2 or later to another party. A relative path starts at the configuration folder."""

    authorities: Path = Field(description="PEM file of the authorities that sign its certificate.")
    certificate: Path | None = Field(
        default=None,
        description="PEM file of our certificate, with its chain, if the other side asks for one.",
    )
    key: Path | None = Field(default=None, description="PEM file of its private key, without a passphrase.")
    server_name: str = Field(default="", description="Name in its certificate, if that is not `Host`.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("Certificate and Key belong together")
        return self


Proof = Literal["auto", "commitment", "inventory", "readback"]
_PROOF = (
    "What proves that it has an image that it acknowledged. commitment: its report of DICOM storage "
    "commitment; if none comes within Policy.CommitmentPatience, inventory. inventory: its "
    "answer to C-FIND at the IMAGE level, or to QIDO-RS. auto: commitment as soon as it has "
    "reported once, inventory before."
)
_READ_BACK = (
    " readback: each image is fetched again by C-GET or WADO-RS, and its data set has to have the same "
    "SHA-256 as the one that was sent. This doubles the traffic."
)


class Primary(_Section):
    """The clinic's PACS, for which this appliance stands by."""

    ae_title: AeTitle
    host: Host
    port: Port = 104
    calling_ae_titles: list[AeTitle] = Field(
        default=[],
        max_length=20,
        description="Further AE titles with which the primary calls this appliance. An image from one of "
        "them came from the primary, and is not sent back to it.",
        examples=[["PACS_ROUTER"]],
    )
    addresses: Addresses = []
    client_certificate: ClientCertificate = None
    move_destination: AeTitle | None = Field(
        default=None,
        description="AE title under which the primary sends to this appliance by C-MOVE. If absent: "
        "`AeTitle`.",
    )
    associations: Associations = 4
    proof: Literal["auto", "commitment", "inventory"] = Field(default="auto", description=_PROOF)
    tls: Tls | None = Field(
        default=None, description="TLS for connections to it. If absent, they are not encrypted."
    )

    @property
    def titles(self) -> frozenset[str]:
        """All AE titles with which it calls."""
        return frozenset((self.ae_title, *self.calling_ae_titles))


class Condition(_Section):
    """A condition of a route on one value of an instance: exactly one of `Equals`, `In` and `Regex`."""

    of: str = Field(
        description="The value to compare: CallingAeTitle, CalledAeTitle, SourceAddress, Weekday or "
        "TimeOfDay (when the image arrived, in TimeZone), or the keyword of a DICOM attribute that "
        "is not inside a sequence.",
        examples=["Modality", "StationName", "BodyPartExamined"],
    )
    equals: str | None = Field(default=None, description="The value equals this text.", examples=["CT"])
    among: list[str] | None = Field(
        default=None,
        alias="In",
        min_length=1,
        description="The value is one of these. SourceAddress takes addresses and networks, TimeOfDay "
        "parts of the day such as 18:00-07:00, Weekday the names monday to sunday.",
    )
    regex: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="The value matches this regular expression somewhere. `^` and `$` match its "
        "beginning and end, and `(?i)` ignores case. Back-references and look-around are not "
        "supported.",
    )
    negated: bool = Field(default=False, alias="Not", description="Inverts the condition.")

    @model_validator(mode="after")
    def _meant(self) -> Self:
        self.compiled()
        return self

    def compiled(self) -> rules.RouteCondition:
        """Return the condition as the core evaluates it, or raise ValueError."""
        if sum(one is not None for one in (self.equals, self.among, self.regex)) != 1:
            raise ValueError("exactly one of Equals, In and Regex is needed")
        problem = "" if self.of in rules.KNOWN else dictionary.problem_of(self.of)
        if problem:
            raise ValueError(problem)
        if self.regex is not None:
            return rules.RouteCondition(
                self.of, f"fits the pattern {self.regex}", _pattern(self.regex), self.negated
            )
        wanted = [self.equals] if self.equals is not None else self.among or []
        words = f"is {wanted[0]}" if len(wanted) == 1 else f"is one of {', '.join(wanted)}"
        return rules.RouteCondition(self.of, words, rules.test_of(self.of, wanted), self.negated)


def _pattern(text: str) -> rules.Test:
    """Return the test for a pattern. For every pattern, its time is linear in the length of the value."""
    try:
        schema = core_schema.str_schema(pattern=text, regex_engine="rust-regex")
        return SchemaValidator(schema).isinstance_python
    except SchemaError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ValueError(f"Regex cannot be used: {reason}") from None


def _hours(text: str) -> str:
    return str(Hours.parse(text))


PartOfDay = Annotated[
    str,
    Field(description="Part of every day in TimeZone. It may pass midnight.", examples=["18:00-07:00"]),
    AfterValidator(_hours),
]


class Bandwidth(_Section):
    """A limit of the bandwidth for a part of every day."""

    hours: PartOfDay
    bytes_per_second: int = Field(ge=1024, description="Most bytes a second during these hours.")


class Destination(_Section):
    """A destination of routes: by C-STORE to `Host`, or by STOW-RS to `Url`."""

    name: Name
    ae_title: AeTitle | None = Field(
        default=None,
        description="Its AE title. Images that came from it are never sent back. Required with `Host`.",
    )
    host: Host | None = Field(
        default=None, description="Host name or IP address, if images are sent by C-STORE."
    )
    port: Port = 104
    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="URL of its DICOMweb service, if images are sent by STOW-RS. QIDO-RS proves their "
        "arrival.",
        examples=["https://archive.example.org/dicom-web"],
    )
    credentials_file: Path | None = Field(
        default=None,
        description='JSON file {"username", "password"} or {"token"} for `Url`. A relative path starts at '
        "the folder of secrets.",
    )
    addresses: Addresses = []
    client_certificate: ClientCertificate = None
    sop_classes: list[str] = Field(
        default=[], description="SOP Class UIDs (0008,0016) that are sent to it. If empty, all are sent."
    )
    transfer_syntax: Literal["keep", "accepted"] = Field(
        default="keep",
        description="keep: only the stored bytes are sent. accepted: if it does not accept the stored "
        "transfer syntax, it gets an uncompressed copy; the stored file does not change.",
    )
    windows: list[PartOfDay] = Field(
        default=[],
        description="Hours during which images are sent to it. If empty, they are sent all day. A batch "
        "that has begun is finished after the hours.",
    )
    bandwidth: list[Bandwidth] = Field(
        default=[], description="Limits of the bandwidth by hour. If several apply, the lowest one counts."
    )
    owed_limit: Seconds | None = Field(
        default=None,
        description="Overrides Policy.OwedLimit for this destination, in seconds. Time outside its "
        "windows does not count.",
    )
    associations: Associations = 4
    proof: Proof = Field(default="auto", description=_PROOF + _READ_BACK)
    tls: Tls | None = Field(
        default=None,
        description="TLS for connections to it. If absent, connections to `Host` are not encrypted, and "
        "an https `Url` needs a certificate of a public authority.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.host is None) is (self.url is None):
            raise ValueError("exactly one of Host and Url is needed")
        if self.host is not None and self.ae_title is None:
            raise ValueError("AeTitle is needed with Host")
        if self.url is None and self.credentials_file is not None:
            raise ValueError("CredentialsFile is for Url alone")
        if self.url is not None and self.transfer_syntax == "accepted":
            raise ValueError("TransferSyntax accepted is for Host alone: over Url nothing is negotiated")
        if self.transfer_syntax == "accepted" and self.proof == "readback":
            raise ValueError("Proof readback is for TransferSyntax keep: a copy differs from what is stored")
        if self.url is not None and self.proof == "commitment":
            raise ValueError("Proof commitment is for Host alone: DICOMweb has none")
        return self


class Route(_Section):
    """A rule for new instances: an instance that meets all conditions is owed to the destinations."""

    name: Name
    when: list[Condition] = Field(
        default=[],
        description="All of these conditions have to be met. If empty, the route applies to every image.",
    )
    to: list[Name] = Field(min_length=1, description="Names of destinations.")
    priority: Literal["high", "medium", "low"] = Field(
        default="medium",
        description="Images of a higher priority are sent first. A day of waiting counts as much as one "
        "level.",
    )
    send: Literal["at_once", "when_stable"] = Field(
        default="at_once",
        description="at_once: as soon as the image has arrived. when_stable: when its study has not "
        "grown for Policy.StableAge seconds; such images have no priority and are sent after all "
        "others.",
    )

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if self.send == "when_stable" and "priority" in self.model_fields_set:
            raise ValueError("a route that waits until the study is stable has no Priority")
        return self


class DirectoryVault(_Section):
    """A vault in a directory: a NAS, a USB disk or the appliance's own volume."""

    name: Name
    directory: Path = Field(description="Absolute path of a folder that the agent may write to.")
    recipients: list[str] = Field(
        default=[],
        description="age X25519 recipients (age1...). If empty, the recipient that the first start made.",
    )

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        if not self.directory.is_absolute():
            raise ValueError("Directory has to be an absolute path")
        return self


class S3Vault(_Section):
    """A vault in an S3 bucket that was created with Object Lock."""

    name: Name
    endpoint: str = Field(
        pattern=r"^https?://", description="URL of the S3 service.", examples=["https://s3.example.org"]
    )
    bucket: str = Field(min_length=3, description="Name of the bucket. It was created with Object Lock.")
    region: str = Field(default="us-east-1", description="Region for request signing.")
    credentials_file: Path = Field(
        description='JSON file {"access_key", "secret_key"} of a user who may only put and list objects. A '
        "relative path starts at the folder of secrets."
    )
    retention_days: int = Field(ge=1, description="Days for which every object is locked in compliance mode.")
    recipients: list[str] = Field(
        default=[],
        description="age X25519 recipients (age1...). If empty, the recipient that the first start made.",
    )


def _kind_of_vault(value: object) -> str:
    """Return the kind of a vault, so that errors are about the kind that the operator meant."""
    keys = value if isinstance(value, dict) else vars(type(value)).get("model_fields", {})
    return "directory" if "Directory" in keys or "directory" in keys else "s3"


Vault = Annotated[
    Annotated[S3Vault, Tag("s3")] | Annotated[DirectoryVault, Tag("directory")], Discriminator(_kind_of_vault)
]


class Modality(_Section):
    """A DICOM device of the clinic that stores here, or that queries and retrieves here."""

    name: Name
    ae_title: AeTitle
    host: Host
    port: Port = Field(default=104, description="Its DICOM port, for C-MOVE.")
    addresses: Addresses = []
    client_certificate: ClientCertificate = None
    reads: bool = Field(
        default=False, description="Whether it may query and retrieve (C-FIND, C-MOVE, C-GET)."
    )


class DicomTls(_Section):
    """DICOM over TLS with client certificates, on the second port. It is off without `ClientCa`."""

    client_ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities that sign the devices' certificates. A relative path "
        "starts at the configuration folder.",
    )
    required: bool = Field(default=False, description="Whether the port without TLS is closed.")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.required and self.client_ca is None:
            raise ValueError("Required without ClientCa would leave no DICOM port at all")
        return self


class Edge(_Section):
    """Limits of simultaneous associations. A caller above a limit is told to try again."""

    associations: int = Field(
        default=64, ge=2, le=1000, description="Most associations of all devices together."
    )
    associations_of_device: int = Field(
        default=32, ge=1, description="Most associations of one calling AE title at one address."
    )
    associations_of_strangers: int = Field(
        default=24,
        ge=0,
        description="Most associations of all devices together that are not on the allow-list.",
    )

    @model_validator(mode="after")
    def _reserve(self) -> Self:
        if self.associations_of_device + self.associations_of_strangers >= self.associations:
            raise ValueError(
                "AssociationsOfDevice and AssociationsOfStrangers together have to be below Associations: "
                "the rest is the reserve of the other known devices"
            )
        return self


class Policy(_Section):
    """Intervals and limits. The defaults suit a small clinic."""

    accept_strangers: bool = Field(
        default=True,
        description="Whether devices that are neither listed nor approved may use C-ECHO and C-STORE, "
        "which is meant for the first days. Otherwise the edge rejects their associations.",
    )
    probe_interval: Seconds = Field(default=10, description="Seconds between two probes of the primary.")
    probe_failures: int = Field(
        default=3,
        ge=1,
        description="Number of probes in a row without an answer after which the primary counts as down.",
    )
    inventory_interval: Seconds = Field(
        default=300,
        description="Seconds between two comparisons of the inventories. A failed comparison is repeated "
        "within 60 s.",
    )
    primary_grace: Seconds = Field(
        default=60,
        description="Seconds to wait before an image that did not come from the primary is looked for "
        "there, and before a missing image is fetched. Until then the modality, or the primary, may "
        "send it.",
    )
    max_lag: Seconds = Field(
        default=900,
        description="Most seconds between the horizon and the primary's last sign of life. Beyond this "
        "there is an alarm, and a promotion has to accept the loss.",
    )
    quiet_period: Seconds = Field(
        default=300,
        description="A failback can settle only if no modality has stored here for so many seconds.",
    )
    pack_linger: Seconds = Field(
        default=3, description="Seconds that a pack waits for more instances of its study."
    )
    pack_bytes: int = Field(
        default=64 * 2**20, ge=2**20, description="Size in bytes at which a pack is closed."
    )
    owed_limit: Seconds = Field(
        default=900,
        description="Seconds after which an image that is still owed to a holder raises an alarm.",
    )
    retry_base: Seconds = Field(default=1, description="Seconds before the second attempt.")
    retry_cap: Seconds = Field(default=300, description="Longest wait between two attempts, in seconds.")
    boot_seconds: Seconds = Field(
        default=3,
        description="Most seconds that a start of Orthanc spends on files that a crash left behind. The "
        "next start continues.",
    )
    scrub_rate: int = Field(
        default=4 * 2**20, ge=1024, description="Bytes a second that the scrub reads from the disk."
    )
    scrub_interval: Seconds = Field(
        default=7 * 86400, description="Seconds from the start of one scrub to the start of the next."
    )
    warn_percent: float = Field(
        default=80,
        gt=0,
        lt=100,
        description="An alarm is raised if so many per cent of a volume's bytes or inodes are in use.",
    )
    refuse_percent: float = Field(
        default=95,
        gt=0,
        lt=100,
        description="New images are refused if so many per cent of the storage or index volume are in "
        "use. The answer is a temporary failure, so senders keep them and try again.",
    )
    ballast_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Bytes that are reserved on the index and state volumes, at most a twentieth of "
        "each. They are released at RefusePercent, so that a full appliance can delete and recover. "
        "0 reserves none.",
    )
    stable_age: Seconds = Field(
        default=60,
        description="Seconds without a new image after which a study counts as complete for routes that "
        "wait for this. No image waits more than ten times as long.",
    )
    commitment_patience: Seconds = Field(
        default=300,
        description="Seconds to wait for a report of storage commitment before inventory is used.",
    )
    network_timeout: Seconds = Field(
        default=30, description="Seconds of silence after which a connection to a peer is given up."
    )

    @model_validator(mode="after")
    def _marks_in_order(self) -> Self:
        if self.warn_percent > self.refuse_percent:
            raise ValueError("WarnPercent has to be RefusePercent at most")
        return self


class Understudy(_Section):
    """The configuration of the appliance for its clinic."""

    site: Name = Field(default="clinic", description="Name of the site, shown on every page and report.")
    ae_title: AeTitle = Field(default="UNDERSTUDY", description="Our own AE title.")
    primary: Primary | None = Field(default=None, description="The clinic's PACS, if there is one yet.")
    time_zone: TimeZone = Field(
        default="UTC",
        description="Time zone of hours and weekdays, by its name in the IANA database.",
        examples=["Europe/Vienna"],
    )
    destinations: list[Destination] = Field(default=[], description="Destinations of routes.")
    routes: list[Route] = Field(
        default=[], description="Rules of auto-routing, applied in this order when an instance arrives."
    )
    route_matching: Literal["all", "first"] = Field(
        default="all",
        description="all: every matching route applies. first: only the first matching route applies.",
    )
    vaults: list[Vault] = Field(default=[], description="Stores of encrypted packs.")
    modalities: list[Modality] = Field(default=[], description="The known devices.")
    dicom_tls: DicomTls = Field(default=DicomTls(), description="DICOM over TLS.")
    edge: Edge = Field(default=Edge(), description="Limits of the association gate.")
    policy: Policy = Field(default=Policy(), description="Intervals and limits.")

    def owed_limit(self, holder: str) -> float:
        """Return the seconds for which an instance may be owed to a holder before an alarm is raised.

        Time in which a destination's windows are closed does not count.
        """
        for one in self.destinations:
            if one.name == holder:
                closed = longest_closed([Hours.parse(window) for window in one.windows])
                return (one.owed_limit or self.policy.owed_limit) + closed
        return self.policy.owed_limit

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        holders = [item.name for item in (*self.destinations, *self.vaults)]
        if self.primary is not None:
            holders.append("primary")
        problems = [
            f"the {kind} name {name!r} is used twice"
            for kind, names in (
                ("holder", holders),
                ("route", [route.name for route in self.routes]),
                ("device", [modality.name for modality in self.modalities]),
            )
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
        known = {destination.name for destination in self.destinations}
        problems += [
            f"the route {route.name!r} leads to {name!r}, which is no destination"
            for route in self.routes
            for name in route.to
            if name not in known
        ]
        callers = (self.primary, *self.modalities, *self.destinations)
        if self.dicom_tls.client_ca is None and any(one and one.client_certificate for one in callers):
            problems.append("ClientCertificate is asked for over TLS alone, which needs DicomTls.ClientCa")
        if self.primary is not None and self.ae_title in self.primary.titles:
            problems.append(
                "AeTitle and an AE title of Primary are the same: nobody could tell what came from there"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with `${NAME}` and `${NAME:-default}` replaced as Orthanc does (Orthanc Book)."""

    def value(match: re.Match[str]) -> str:
        return environment.get(match["name"]) or match["default"] or ""

    return _VARIABLE.sub(value, text)


def parse(document: object) -> Understudy:
    """Return the section from parsed JSON, or raise ConfigurationError with every problem and its path."""
    try:
        return Understudy.model_validate(document)
    except ValidationError as error:
        problems = [
            _problem(item["loc"], _words(item["type"], item["loc"], item["msg"])) for item in error.errors()
        ]
        raise ConfigurationError(problems) from None


def _words(kind: str, location: tuple[int | str, ...], message: str) -> str:
    """Return pydantic's message, or a clearer one if the operator wrote an unknown key."""
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    keys = _keys(Understudy.model_json_schema())
    if location[-1] in keys:
        return "this key belongs to another section"
    near = difflib.get_close_matches(str(location[-1]), keys, n=1)
    return "unknown key" + "".join(f"; is {name} meant?" for name in near)


def _keys(schema: object) -> list[str]:
    """Return the names of all keys of a JSON schema, at every level."""
    if isinstance(schema, list):
        return [name for one in schema for name in _keys(one)]
    if not isinstance(schema, dict):
        return []
    return [*schema.get("properties", {}), *(name for one in schema.values() for name in _keys(one))]


def _problem(location: tuple[int | str, ...], message: str) -> str:
    # The operator did not write the tag of a union.
    parts = [part for part in location if part not in ("s3", "directory")]
    path = "Understudy" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return f"{path}: {message}"


def read_files(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the text of each `*.json` file of the folder by file name, with the variables replaced.

    Raises ConfigurationError.
    """
    texts: dict[str, str] = {}
    problems: list[str] = []
    files = sorted(folder.glob("*.json"))
    if not files:
        problems.append(f"{folder}: no *.json file is there")
    for file in files:
        try:
            texts[file.name] = substitute(file.read_text(encoding="utf-8"), environment)
        except (OSError, ValueError) as error:
            problems.append(f"{file.name}: {error}")
    if problems:
        try:
            sections_of(texts)
        except ConfigurationError as error:
            problems += error.problems
        raise ConfigurationError(problems)
    return texts


def sections_of(texts: Mapping[str, str]) -> dict[str, object]:
    """Return the top-level sections of the files by name, or raise ConfigurationError."""
    sections: dict[str, object] = {}
    problems: list[str] = []
    for file, text in texts.items():
        try:
            content = json5.loads(text)
        except RecursionError:
            # The message of the error depends on the depth of the caller's stack.
            problems.append(f"{file}: nested too deeply")
            continue
        except ValueError as error:
            problems.append(f"{file}: {error}")
            continue
        if not isinstance(content, dict):
            problems.append(f"{file}: the file has to hold one JSON object")
            continue
        for name, section in content.items():
            if name in sections:
                problems.append(f"{file}: the section {name!r} stands in another file too")
            sections[name] = section
    if problems:
        raise ConfigurationError(problems)
    return sections


def read_sections(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Return the top-level sections of all `*.json` files of the folder, or raise ConfigurationError."""
    return sections_of(read_files(folder, environment))


def schema_json() -> str:
    """Return the JSON Schema of the section. The reference page is generated from it."""
    return json.dumps(Understudy.model_json_schema(by_alias=True), indent=2)
