"""The lab's clinic around the appliance: sends, asks and retrieves by dcmtk, and looks at each holder.

Rule 1: what a holder has is read from the holder itself: IMAGE-level C-FIND, its disk, its bucket. Never
through the appliance's code, and never from what the appliance says.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

from tests.stack import IMAGE, Stack, StackError, run

PRIMARY_STORAGE = "/var/lib/orthanc/db-v6"
STANDBY_STORAGE = "/var/lib/orthanc/storage"
_QUARANTINE = "understudy/quarantine"
ARCHIVE_STORAGE = "/var/lib/archive"
READER_STORAGE = "/var/lib/reader"
LOCAL_VAULT = "/var/lib/understudy-vault"
PACK, MANIFEST = ".tar.zst.age", ".json.age"
FIND_MODEL = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model - FIND (DICOM PS3.4 C.6.2)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM application entity as the lab's other parties reach it."""

    ae_title: str
    host: str
    port: int


PRIMARY = Peer("PRIMARY", "primary", 4242)
STANDBY = Peer("STANDBY", "edge", 4242)
ARCHIVE = Peer("ARCHIVE", "archive", 11112)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the receiver answered, by SOP Instance UID."""

    accepted: frozenset[str]
    refused: Mapping[str, str]
    """Why not: the DIMSE status in words, or that the file was not sent."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One DICOM file that a holder has."""

    sop_instance_uid: str
    study_instance_uid: str
    file_sha256: str
    dataset_sha256: str
    """Of what follows the file meta information, which every holder writes again."""
    content: bytes
    """The file itself; empty where it came out of a vault, since digests are all that is asked of those."""

    def __repr__(self) -> str:
        return f"Copy({self.sop_instance_uid})"


@dataclass(frozen=True, slots=True)
class VaultContents:
    """Everything in one vault, opened with age, zstd and tar."""

    packs: Mapping[str, Sequence[Copy]]
    """By key of the pack."""
    manifests: Mapping[str, bytes]
    """By key of the manifest, decrypted."""

    def copies(self) -> list[Copy]:
        """Return every copy of every pack."""
        return [copy for copies in self.packs.values() for copy in copies]

    def packs_of(self, sop_instance_uid: str) -> list[str]:
        """Return the keys of the packs that hold the instance."""
        return [
            key
            for key, copies in self.packs.items()
            for copy in copies
            if copy.sop_instance_uid == sop_instance_uid
        ]


class Lab(Stack):
    """The full lab: primary, S3, archive, modality and reader around the appliance."""

    def __init__(self, project: str, *, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(project, lab=True, environment=environment)

    # --- What modalities and readers do ---------------------------------------------------------------------

    def send(self, folder: Path, *, calling: str, to: Peer, options: Sequence[str] = ()) -> Sent:
        """Send all files of a folder below `data` by dcmsend, and return the answer to each instance.

        Files that are not sent as they are (compressed ones would be decompressed) are told, not hidden.
        """
        script = """
            cd "$(mktemp -d)"
            dcmsend --decompress-never --no-halt --scan-directories --create-report-file report.txt \
                -aet "$1" -aec "$2" "${@:6}" "$3" "$4" "$5" >log.txt 2>&1 || { cat log.txt; exit 1; }
            cat report.txt
        """
        inside = self._inside(folder)
        arguments = (calling, to.ae_title, to.host, str(to.port), inside, *options)
        return _sent(self.shell("modality", script, *arguments))

    def send_all(self, folder: Path, *, calling: str, to: Peer) -> frozenset[str]:
        """Send a folder and return the instances; raise where one was not accepted."""
        sent = self.send(folder, calling=calling, to=to)
        if sent.refused or not sent.accepted:
            raise StackError(
                f"{to.ae_title} accepted {len(sent.accepted)} instances and not {dict(sent.refused)}"
            )
        return sent.accepted

    def store(self, path: Path, *, calling: str, to: Peer) -> None:
        """Send one file by storescu; raise where it was not accepted."""
        self.execute(
            "modality",
            "storescu",
            "--required",
            "-aet",
            calling,
            "-aec",
            to.ae_title,
            to.host,
            str(to.port),
            self._inside(path),
        )

    def echo(self, to: Peer, *, calling: str = "CT1") -> None:
        """C-ECHO; raise where it does not succeed."""
        self.execute("modality", "echoscu", "-aet", calling, "-aec", to.ae_title, to.host, str(to.port))

    def move_to_reader(self, study_instance_uid: str, *, at: Peer = STANDBY) -> None:
        """C-MOVE a study to the reader; raise where one sub-operation failed."""
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_instance_uid}")
        self.execute(
            "reader",
            "movescu",
            "-S",
            "-aet",
            "READER",
            "-aec",
            at.ae_title,
            "-aem",
            "READER",
            *keys,
            at.host,
            str(at.port),
        )

    def get_study(self, study_instance_uid: str, *, at: Peer = STANDBY) -> list[Copy]:
        """C-GET a study bit by bit, and return what came."""
        script = """
            folder=$(mktemp -d)
            getscu -S --bit-preserving -aet READER -aec "$1" --output-directory "$folder" \
                -k QueryRetrieveLevel=STUDY -k StudyInstanceUID="$4" "$2" "$3" >"$folder.log" 2>&1 ||
                { cat "$folder.log" >&2; exit 1; }
            tar --create --directory "$folder" .
            rm -r "$folder"
        """
        command = (
            "bash",
            "-euo",
            "pipefail",
            "-s",
            "--",
            at.ae_title,
            at.host,
            str(at.port),
            study_instance_uid,
        )
        return list(copies_in_tar(self.execute("reader", *command, stdin=script.encode())))

    def find(self, at: Peer, queries: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Ask by findscu, one association for all queries, and return the answers: keyword to value."""
        if not queries:
            return []
        folder = self.data / f"find-{at.ae_title.lower()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, query in enumerate(queries):
            _write_query(folder / f"{number:05d}.dcm", query)
        script = """
            cd "$(mktemp -d)"
            # Else each of hundreds of queries waits 40 ms for the delayed acknowledgement of its first part.
            export TCP_NODELAY=1
            findscu -S -aet READER -aec "$1" --extract-xml-single answers.xml \
                "$2" "$3" "$4"/*.dcm >log.txt 2>&1 || { cat log.txt >&2; exit 1; }
            ! grep -E '^E:|Failed|Refused' log.txt >&2
            cat answers.xml
        """
        shown = self.shell("reader", script, at.ae_title, at.host, str(at.port), self._inside(folder))
        return [
            {
                str(element.get("name")): (element.text or "").strip("\0 ")
                for element in answer.iter("element")
            }
            for answer in ElementTree.fromstring(shown).iter("data-set")
        ]

    def instances_at(self, at: Peer) -> Counter[str]:
        """Return how often each SOP Instance UID is found, asked level by level (DICOM PS3.4 C.4.1)."""
        studies = self.find(at, [{"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}])
        series = self.find(
            at,
            [
                {
                    "QueryRetrieveLevel": "SERIES",
                    "StudyInstanceUID": study["StudyInstanceUID"],
                    "SeriesInstanceUID": "",
                }
                for study in studies
            ],
        )
        images = self.find(
            at,
            [
                {
                    "QueryRetrieveLevel": "IMAGE",
                    "StudyInstanceUID": one["StudyInstanceUID"],
                    "SeriesInstanceUID": one["SeriesInstanceUID"],
                    "SOPInstanceUID": "",
                }
                for one in series
            ],
        )
        return Counter(image["SOPInstanceUID"] for image in images)

    def uids_at_primary(self) -> frozenset[str]:
        """Return the SOP Instance UIDs that the primary lists."""
        return frozenset(self.instances_at(PRIMARY))

    def uids_at_standby(self) -> frozenset[str]:
        """Return the SOP Instance UIDs that the standby lists."""
        return frozenset(self.instances_at(STANDBY))

    def uids_at_archive(self) -> frozenset[str]:
        """Return the SOP Instance UIDs that the archive lists."""
        return frozenset(self.instances_at(ARCHIVE))

    # --- What happens to the clinic -------------------------------------------------------------------------

    @property
    def _front(self) -> str:
        return f"{self.project}_front"

    def unplug(self, service: str) -> None:
        """Take the service off the network, as pulling its cable does."""
        run(["docker", "network", "disconnect", self._front, self.container(service)])

    def plug(self, service: str) -> None:
        """Put the service back on the network."""
        run(["docker", "network", "connect", "--alias", service, self._front, self.container(service)])

    def send_inside(self, service: str, paths: Iterable[Path], *, calling: str, called: str) -> Sent:
        """Send files from within the service's own machine: what reaches a PACS whose cable is pulled."""
        archive = io.BytesIO()
        with tarfile.open(mode="w", fileobj=archive) as tar:
            for path in paths:
                tar.add(path, arcname=path.name)
        folder = "/tmp/bench"
        unpack = f"mkdir -p {folder} && tar --extract --directory {folder}"
        self.execute(service, "bash", "-c", unpack, stdin=archive.getvalue())
        script = f"""
            cd /tmp
            dcmsend --decompress-never --no-halt --scan-directories --create-report-file report.txt \
                -aet "$1" -aec "$2" 127.0.0.1 4242 {folder} >log.txt 2>&1 || {{ cat log.txt; exit 1; }}
            cat report.txt
            rm -r {folder} report.txt log.txt
        """
        return _sent(self.shell(service, script, calling, called))

    def delete_at_primary(self, sop_instance_uid: str) -> None:
        """Delete one instance at the primary by its own REST, as a hand at the PACS would."""
        script = """
            base=http://primary:8042
            found=$(curl --silent --fail --data-binary "$1" "$base/tools/lookup")
            number=$(sed -n 's/.*"ID" : "\\([^"]*\\)".*/\\1/p' <<< "$found")
            [ -n "$number" ]
            curl --silent --fail --output /dev/null --request DELETE "$base/instances/$number"
        """
        self.shell("modality", script, sop_instance_uid)

    # --- What the holders have ------------------------------------------------------------------------------

    def copies_at_primary(self) -> list[Copy]:
        """Return the DICOM files on the primary's disk."""
        return list(copies_in_tar(self._tar("primary", PRIMARY_STORAGE)))

    def copies_at_standby(self) -> list[Copy]:
        """Return the DICOM files on the standby's disk but those in quarantine."""
        return list(copies_in_tar(self._tar("orthanc", STANDBY_STORAGE, f"--exclude=./{_QUARANTINE}")))

    def quarantined_at_standby(self) -> list[Copy]:
        """Return the DICOM files in the standby's quarantine, whole or not."""
        return list(copies_in_tar(self._tar("orthanc", f"{STANDBY_STORAGE}/{_QUARANTINE}")))

    def copies_at_reader(self) -> list[Copy]:
        """Return the DICOM files that the reader received."""
        return list(copies_in_tar(self._tar("reader", READER_STORAGE)))

    def _tar(self, service: str, folder: str, *options: str) -> bytes:
        # 1 says that something changed meanwhile, such as what Orthanc keeps beside the files. Who compares
        # the copies sees it if it is one of them.
        script = 'tar --create --directory "$@" . || [ $? = 1 ]'
        return self.execute(service, "sh", "-c", script, "sh", folder, *options)

    def local_vault(self, identity: str) -> VaultContents:
        """Open the vault on the appliance's volume."""
        return self._opened("local", self._tar("agent", LOCAL_VAULT), identity)

    def cloud_vault(self, identity: str, *, only: Collection[str] = ()) -> VaultContents:
        """Open the vault in the bucket, or the keys in `only`, fetched by curl with the reader's key."""
        # Every version counts: a second one under a key would be a second copy.
        listing = self.shell("s3", _LIST_BUCKET)
        pages = [ElementTree.fromstring(page) for page in listing.split("\f") if page.strip()]
        keys = Counter(
            str(version.findtext("{*}Key"))
            for page in pages
            for version in page.iter()
            if version.tag.endswith("}Version")
        )
        if twice := [key for key, versions in keys.items() if versions > 1]:
            raise StackError(f"objects with more than one version: {twice}")
        command = ("bash", "-euo", "pipefail", "-c", _FETCH_OBJECTS)
        return self._opened(
            "cloud", self.execute("s3", *command, stdin="\n".join(only or keys).encode()), identity
        )

    def _opened(self, name: str, objects: bytes, identity: str) -> VaultContents:
        """Decrypt and unpack all objects of a vault by the image's age, zstd and tar, and nothing else."""
        folder = self.data / "vault" / name
        shutil.rmtree(folder, ignore_errors=True)
        sealed, opened = folder / "sealed", folder / "opened"
        sealed.mkdir(parents=True)
        opened.mkdir()
        with tarfile.open(fileobj=io.BytesIO(objects)) as tar:
            _extract(tar, sealed)
        run(
            [
                *(
                    "docker",
                    "run",
                    "--rm",
                    "--interactive",
                    "--network",
                    "none",
                    "--read-only",
                    "--tmpfs",
                    "/tmp",
                ),
                *(
                    "--user",
                    f"{os.getuid()}:{os.getgid()}",
                    "--volume",
                    f"{folder}:/vault",
                    "--entrypoint",
                    "bash",
                ),
                *(IMAGE, "-euo", "pipefail", "-c", _OPEN_VAULT),
            ],
            stdin=identity.encode() + b"\n",
        )
        packs = {
            path.relative_to(sealed).as_posix(): [
                replace(copy_of(file.read_bytes()), content=b"")
                for file in sorted((opened / path.relative_to(sealed)).rglob("*.dcm"))
            ]
            for path in sorted(sealed.rglob(f"*{PACK}"))
        }
        manifests = {
            path.relative_to(sealed).as_posix(): (opened / path.relative_to(sealed)).read_bytes()
            for path in sorted(sealed.rglob(f"*{MANIFEST}"))
        }
        shutil.rmtree(folder)
        return VaultContents(packs, manifests)

    def _inside(self, path: Path) -> str:
        """Return the path under which the modality sees a file or folder below `data`."""
        return f"/data/{self.project}/{path.relative_to(self.data).as_posix()}"


def copies_in_tar(content: bytes) -> Iterator[Copy]:
    """Yield every DICOM file of a tar; other files are passed over."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.isfile() else None
            data = file.read() if file is not None else b""
            if data[128:132] == b"DICM":
                yield copy_of(data)


def copy_of(content: bytes) -> Copy:
    """Return the identifiers and digests of a DICOM Part 10 file."""
    # pydicom's own odd test files are among them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(
            io.BytesIO(content), stop_before_pixels=True, specific_tags=["SOPInstanceUID", "StudyInstanceUID"]
        )
        sop_instance_uid, study_instance_uid = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
    return Copy(
        sop_instance_uid,
        study_instance_uid,
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(dataset_bytes(content)).hexdigest(),
        content,
    )


def dataset_bytes(content: bytes) -> bytes:
    """Return what follows the meta information, whose length is its first element (DICOM PS3.10 7.1)."""
    if content[128:136] != b"DICM\2\0\0\0" or content[136:138] != b"UL":
        raise StackError("a file without the length of its meta information")
    return content[144 + int.from_bytes(content[140:144], "little") :]


def same_content(one: Copy, other: Copy) -> bool:
    """Say whether two files hold the same elements with the same values, however they are encoded."""
    return _elements(one) == _elements(other)


def transcoded(one: Copy, other: Copy) -> bool:
    """Say whether two files differ in transfer syntax and encoding of pixels, and in nothing else."""
    left, right = _elements(one), _elements(other)
    if left.file_meta.TransferSyntaxUID == right.file_meta.TransferSyntaxUID:
        return False
    for dataset in (left, right):
        for keyword in ("PixelData", "PhotometricInterpretation", "PlanarConfiguration"):
            if keyword in dataset:
                delattr(dataset, keyword)
    return left == right


def _elements(copy: Copy) -> pydicom.FileDataset:
    """Return what the file holds, without group lengths: they are retired (DICOM PS3.5 7.2)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(copy.content))
        for tag in list(dataset.keys()):
            if tag.element == 0:
                del dataset[tag]
            else:
                # Read now, while odd values are no warnings.
                _ = dataset[tag].value
        return dataset


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files of a vault below the folder; the names are the vault's own, checked all the same."""
    for entry in tar:
        file = tar.extractfile(entry) if entry.isfile() else None
        name = entry.name.removeprefix("./")
        if file is None or not name.endswith((PACK, MANIFEST)):
            continue
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise StackError(f"a vault with the name {name!r}")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read())


def _write_query(path: Path, query: Mapping[str, str]) -> None:
    dataset = Dataset()
    for keyword, value in query.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(FIND_MODEL)
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(FIND_MODEL)
    dataset.save_as(path, enforce_file_format=True)


def _sent(report: str) -> Sent:
    """Return what dcmsend's report says of each instance."""
    answers = re.findall(
        r"^SOP Instance  : (\S+)$.*?^DIMSE Status  : ([^\n]+)$", report, re.MULTILINE | re.DOTALL
    )
    accepted = frozenset(uid for uid, status in answers if status.startswith("0x0000"))
    return Sent(accepted, {uid: status for uid, status in answers if uid not in accepted})


_LIST_BUCKET = """
    pattern='.*"access_key": "\\([^"]*\\)", "secret_key": "\\([^"]*\\)".*'
    keys=$(sed "s/$pattern/\\1:\\2/" /var/lib/s3/reader.json)
    marker=
    while :; do
        page=$(curl --silent --show-error --fail --aws-sigv4 aws:amz:us-east-1:s3 --config - \
            "http://127.0.0.1:7480/vault?key-marker=$marker&versions=" <<< "user = \\"$keys\\"")
        printf '%s\\f' "$page"
        case $page in *'<IsTruncated>true</IsTruncated>'*) ;; *) break ;; esac
        marker=$(sed 's/.*<NextKeyMarker>\\([^<]*\\)<.*/\\1/; s|/|%2F|g' <<< "$page")
    done
"""

# Keys come by standard input; a tar of the objects goes out.
_FETCH_OBJECTS = """
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    pattern='.*"access_key": "\\([^"]*\\)", "secret_key": "\\([^"]*\\)".*'
    keys=$(sed "s/$pattern/\\1:\\2/" /var/lib/s3/reader.json)
    {
        printf 'user = "%s"\\naws-sigv4 = "aws:amz:us-east-1:s3"\\n' "$keys"
        while read -r key || [ -n "$key" ]; do
            printf 'url = "http://127.0.0.1:7480/vault/%s"\\noutput = "%s/%s"\\n' "$key" "$folder" "$key"
        done
    } >"$folder.config"
    chmod 0600 "$folder.config"
    curl --silent --show-error --fail --create-dirs --config "$folder.config" >&2
    rm "$folder.config"
    tar --create --directory "$folder" .
"""

# The identity comes by standard input. These three tools are all that a restore needs.
_OPEN_VAULT = """
    cat > /tmp/identity
    cd /vault/sealed
    find . -name '*.json.age' -printf '%P\\n' | while read -r key; do
        mkdir -p "/vault/opened/${key%/*}"
        age --decrypt --identity /tmp/identity "$key" > "/vault/opened/$key"
    done
    find . -name '*.tar.zst.age' -printf '%P\\n' | while read -r key; do
        mkdir -p "/vault/opened/$key"
        age --decrypt --identity /tmp/identity "$key" | zstd --decompress --quiet |
            tar --extract --no-same-owner --directory "/vault/opened/$key"
    done
"""
