"""What images are made of here: a name for each content, of which bytes, size and digest follow.

A content is a text like `17.2`: the second content that a modality ever sent under the SOP Instance UID 17. A
PACS that coerces what it keeps appends `~`: other bytes, made of the same content.
"""

import hashlib

from understudy.core.model import NewInstance, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid, Timestamp

STUDY = "1.2.840.1"


def uid_of(image: int) -> SopInstanceUid:
    """Return the SOP Instance UID of an image."""
    return SopInstanceUid(f"1.2.840.9.{image}")


def study_of(study: int) -> StudyInstanceUid:
    """Return the Study Instance UID of a study."""
    return StudyInstanceUid(f"{STUDY}.{study}")


def series_of(study: StudyInstanceUid) -> SeriesInstanceUid:
    """Return the UID of the one series of a study."""
    return SeriesInstanceUid(f"{study}.1")


def coerced(content: str) -> str:
    """Return what a PACS that coerces makes of a content."""
    return content if content.endswith("~") else f"{content}~"


def origin(content: str) -> str:
    """Return the content as a modality sent it."""
    return content.rstrip("~")


def file_of(study: StudyInstanceUid, content: str) -> bytes:
    """Return the bytes of the file, which name its study."""
    return f"{study} {content}".encode()


def parsed(file: bytes) -> tuple[StudyInstanceUid, str]:
    """Return the study and the content of a file."""
    study, content = file.decode().split(" ")
    return StudyInstanceUid(study), content


def digest_of(study: StudyInstanceUid, content: str) -> str:
    """Return the MD5 of the file, in hexadecimal."""
    return hashlib.md5(file_of(study, content), usedforsecurity=False).hexdigest()


def new_instance(
    study: StudyInstanceUid, uid: SopInstanceUid, content: str, calling: str, at: Timestamp, file: str
) -> NewInstance:
    """Return an image as Orthanc tells of it."""
    return NewInstance(
        orthanc_id=f"{study}|{uid}",
        attachment_uuid=file,
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=series_of(study),
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        size=len(file_of(study, content)),
        md5=digest_of(study, content),
        calling_ae_title=calling,
        called_ae_title="UNDERSTUDY",
        remote_address="192.0.2.1",
        received_at=Timestamp(float(int(at))),
    )


def study_of_id(orthanc_id: str) -> StudyInstanceUid:
    """Return the study that an identifier of the simulated Orthanc names."""
    return StudyInstanceUid(orthanc_id.partition("|")[0])
