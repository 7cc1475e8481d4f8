"""The parts of the DICOM data dictionary (PS3.6) that rules and screens need."""

_NO_TEXT = frozenset({"OB", "OB or OW", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"})
"""Value representations whose values cannot be compared with text (PS3.5 6.2)."""


def problem_of(keyword: str) -> str:
    """Return why a rule cannot use this attribute, empty if it can."""
    # Imported here because loading pydicom takes time, and every start of Orthanc reads the configuration.
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        return (
            f"{keyword!r} is neither a keyword of DICOM (PS3.6), as BodyPartExamined is, nor a word of ours"
        )
    if tag >> 16 == 0x0002:
        return f"{keyword} belongs to the file and not to the instance: it cannot be asked for"
    if dictionary_VR(tag) in _NO_TEXT:
        return f"{keyword} has the value representation {dictionary_VR(tag)}: its values are no text"
    return ""


def names_patient(keyword: str) -> bool:
    """Return whether the attribute may identify the patient: group 0010, and every person name."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    return tag is not None and (tag >> 16 == 0x0010 or dictionary_VR(tag) == "PN")


def name_of_uid(uid: str) -> str:
    """Return the name that DICOM gives a UID, the UID itself if it has none."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    # A peer may send any text, so pydicom must not warn of an invalid UID.
    return UID(uid, validation_mode=IGNORE).name
