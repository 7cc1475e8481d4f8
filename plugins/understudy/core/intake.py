"""Limits that follow from Orthanc's memory: the size of an object, large memory blocks, answers to a query.

Orthanc needs four times an object's size while it stores the object (measured from 50 to 400 MB), and up to
three times its size while it sends it to a reader (DICOMweb; a C-GET needs twice). So the largest object is a
seventh of the budget: a reader's request never takes the memory of an examination that arrives, and every
stored object can be sent back.
"""

from dataclasses import dataclass

MIB = 2**20
RESERVED = 512 * MIB
"""Memory for blocks of less than 1 MiB: Orthanc itself, and small objects outside the budget."""
_SMALLEST = 16 * MIB
"""Size that one object may have in any case."""
_SHARES = 7
_FEWEST_FOUND, _MOST_FOUND = 512, 2048
"""Fewest and most answers to a query. Orthanc's index does nothing else while it looks for them, and a store
waits meanwhile: for 4,000 expanded instances 0.4 s (measured on 2 cores)."""
_INSTANCES_FOUND = 4
"""Factor for queries of instances, whose answers have fewer attributes."""
SPARE_THREADS = 8
"""Orthanc's threads beyond the edge's limit of associations: Orthanc ends an association after the edge."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """The limits: bytes of one object, bytes of all large blocks together, and answers to one query."""

    largest_object: int
    memory: int
    found: int
    """Patients, studies or series that one C-FIND returns; each needs about 15 kB until all are sent."""
    found_instances: int


def limits(memory: int) -> IntakeLimits:
    """Return the limits that follow from the memory limit of Orthanc's service, in bytes."""
    budget = max(memory - RESERVED, _SHARES * _SMALLEST)
    found = min(max(memory // MIB, _FEWEST_FOUND), _MOST_FOUND)
    return IntakeLimits(
        largest_object=budget // _SHARES // MIB * MIB,
        memory=budget,
        found=found,
        found_instances=_INSTANCES_FOUND * found,
    )
