"""A destination that misbehaves as it is told: an archive on DICOM (`archive`) or DICOMweb (`web`).

Rule 1: what it does is data (`script`), changed by the test at any moment; what it did is a record (`record`)
on which the test waits. Nothing here decides by chance or by the clock.
Rule 2: it knows nothing of the appliance; its record is what a delivery is compared with.
"""
