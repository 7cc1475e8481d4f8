"""Makes the DICOM files that the demo, the tests and the benchmarks send.

Rule 1: what comes out depends on the arguments alone, so a failed test can be repeated on the same bytes.
Rule 2: every frame carries its own noise. Frames that are copies of one another compress to nothing and make
vaults and links look faster than they are.
"""

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

HOUNSFIELD_INTERCEPT = -1024
AIR, SOFT_TISSUE, BONE = -1000, 40, 700

# Found by sending every file with dcmtk: pydicom reads more than a sender can write.
UNSENDABLE: Mapping[str, str] = MappingProxyType(
    {"SC_rgb_jpeg.dcm": "a sequence without its end, which dcmtk refuses to send"}
)


@dataclass(frozen=True, slots=True)
class Patient:
    """Names the invented person whom a generated study is about."""

    patient_id: str = "UNDERSTUDY-1"
    name: str = "Understudy^Phantom"
    birth_date: str = "19700101"
    sex: str = "O"


@dataclass(frozen=True, slots=True)
class Series:
    """Holds what a generated series consists of, in the order of its slices."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class CopiedFiles:
    """Holds the files that were copied, by SOP Instance UID, and why each of the others was not."""

    paths: dict[str, Path]
    excluded: dict[str, str]


def ct_series(
    folder: Path,
    *,
    seed: str,
    instances: int = 200,
    rows: int = 512,
    columns: int = 512,
    patient: Patient | None = None,
    study_seed: str | None = None,
    station: str = "CT1",
) -> Series:
    """Writes a CT series of a noisy phantom and returns its identifiers and files.

    Each instance is a CT Image Storage object (DICOM PS3.3 A.3) in Explicit VR Little Endian, 16 bit, of
    about 2 * rows * columns bytes. The same seed gives the same UIDs and the same bytes; two series with one
    study_seed are two series of one study.
    """
    study_name = study_seed if study_seed is not None else seed
    study_instance_uid = generate_uid(entropy_srcs=["understudy study", study_name])
    series_instance_uid = generate_uid(entropy_srcs=["understudy series", study_name, seed])
    frame_of_reference_uid = generate_uid(entropy_srcs=["understudy frame of reference", study_name])
    folder.mkdir(parents=True, exist_ok=True)
    sop_instance_uids: list[str] = []
    paths: list[Path] = []
    for number in range(1, instances + 1):
        sop_instance_uid = generate_uid(entropy_srcs=["understudy instance", study_name, seed, str(number)])
        dataset = _ct_header(sop_instance_uid, patient or Patient())
        dataset.StudyInstanceUID = study_instance_uid
        dataset.SeriesInstanceUID = series_instance_uid
        dataset.FrameOfReferenceUID = frame_of_reference_uid
        dataset.StudyID = study_instance_uid[-8:]
        dataset.AccessionNumber = study_instance_uid[-12:]
        dataset.StationName = station
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [-columns / 2, -rows / 2, float(number)]
        dataset.SliceLocation = float(number)
        dataset.Rows, dataset.Columns = rows, columns
        dataset.PixelData = _phantom_slice(sop_instance_uid, number / instances, rows, columns)
        path = folder / f"{number:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        sop_instance_uids.append(sop_instance_uid)
        paths.append(path)
    return Series(study_instance_uid, series_instance_uid, tuple(sop_instance_uids), tuple(paths))


def pydicom_test_files(folder: Path) -> CopiedFiles:
    """Copies the image objects among pydicom's installed test files, unaltered, and says what it left out.

    Nothing is downloaded. Of several files with one SOP Instance UID only the first by name is copied: to a
    PACS they are one instance, and which of them it keeps would depend on the order of sending.
    """
    source = Path(pydicom.__file__).parent / "data" / "test_files"
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    excluded: dict[str, str] = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = str(path.relative_to(source))
        if name in UNSENDABLE:
            excluded[name] = UNSENDABLE[name]
            continue
        try:
            sop_instance_uid = _storable_image(path)
        except _NotStorableError as error:
            excluded[name] = str(error)
            continue
        if sop_instance_uid in paths:
            excluded[name] = f"same SOP Instance UID as {paths[sop_instance_uid].name}"
            continue
        target = folder / name.replace("/", "_")
        target = target if target.suffix == ".dcm" else target.with_name(target.name + ".dcm")
        shutil.copyfile(path, target)
        paths[sop_instance_uid] = target
    return CopiedFiles(paths, excluded)


class _NotStorableError(Exception):
    """Says why a file cannot be sent as an image by C-STORE."""


def _storable_image(path: Path) -> str:
    """Returns the SOP Instance UID of a Part 10 image file, or raises with the reason why it is none."""
    # Some of these files are deliberately odd, and the tests treat warnings as errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError as error:
            raise _NotStorableError("no DICOM Part 10 file") from error
        if "TransferSyntaxUID" not in dataset.file_meta:
            raise _NotStorableError("no transfer syntax in its file meta information")
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            if not dataset.get(keyword):
                raise _NotStorableError(f"no {keyword}")
        class_name = UID(dataset.SOPClassUID).name
        if not class_name.endswith("Image Storage"):
            raise _NotStorableError(f"no image: {class_name}")
        return str(dataset.SOPInstanceUID)


def _ct_header(sop_instance_uid: str, patient: Patient) -> FileDataset:
    """Returns a CT Image dataset without pixels, complete for its mandatory modules (DICOM PS3.3 A.3.3)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20250102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.Modality = "CT"
    dataset.Manufacturer = "Understudy"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Phantom"
    dataset.SeriesDescription = "Noisy phantom"
    dataset.PatientName = patient.name
    dataset.PatientID = patient.patient_id
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientSex = patient.sex
    dataset.KVP = 120
    dataset.SliceThickness = 1
    dataset.PatientPosition = "HFS"
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing = [1, 1]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.RescaleIntercept, dataset.RescaleSlope = HOUNSFIELD_INTERCEPT, 1
    return dataset


def _phantom_slice(sop_instance_uid: str, height: float, rows: int, columns: int) -> bytes:
    """Returns the pixels of one slice of a body with a spine and a ball, with this instance's own noise.

    Little-endian unsigned 16-bit stored values of at most 12 bits, row by row; height runs from 0 to 1.
    """
    y, x = numpy.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    slice_values = numpy.full((rows, columns), float(AIR))
    slice_values[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = SOFT_TISSUE
    slice_values[(x / 0.12) ** 2 + ((y - 0.35) / 0.12) ** 2 < 1] = BONE
    ball_radius = 0.35 * numpy.sin(numpy.pi * height) + 0.02
    slice_values[(x + 0.2) ** 2 + (y + 0.1) ** 2 < ball_radius**2] = SOFT_TISSUE + 60
    noise = numpy.random.default_rng([int(part) for part in sop_instance_uid.split(".")])
    slice_values += noise.normal(0, 25, (rows, columns))
    stored = numpy.clip(slice_values - HOUNSFIELD_INTERCEPT, 0, 4095)
    return bytes(stored.astype("<u2").tobytes())
