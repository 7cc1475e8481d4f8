"""What can hold an instance: a DICOM or DICOMweb server, a vault. Each finds, delivers and proves."""
