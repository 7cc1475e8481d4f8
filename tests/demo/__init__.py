"""The demo: a whole outage on real DICOM, told step by step and checked at every step."""
