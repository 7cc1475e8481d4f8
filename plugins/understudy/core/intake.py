"""How large an object may be, and what large blocks of memory may take, by the memory of Orthanc.

Orthanc takes four times an object's size while it stores the object (measured from 50 to 400 MB), and up to
three times its size while it gives it to a reader (DICOMweb; a C-GET takes twice). So the largest object is a
seventh of what may be taken: what readers ask for never takes the memory of an examination, and whatever is
stored can be given back.
"""

from dataclasses import dataclass

MIB = 2**20
RESERVED = 512 * MIB
"""What Orthanc takes in blocks of less than 1 MiB: itself, and the small objects outside the budget."""
_SMALLEST = 16 * MIB
"""What one object may have in any case."""
_SHARES = 7
_FEWEST_FOUND, _INSTANCES_FOUND = 512, 4
"""Answers to one query at least; and how many times as many instances, which have fewer attributes."""
SPARE_THREADS = 8
"""Threads of Orthanc beyond the edge's associations: what the edge has ended ends here a moment later."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Bytes of one object and of all large blocks together, and the answers to one query."""

    largest_object: int
    memory: int
    found: int
    """Patients, studies or series that one C-FIND gives: each costs some 15 kB until all are sent."""
    found_instances: int


def limits(memory: int) -> IntakeLimits:
    """Return the limits that follow from the memory limit of Orthanc's service, in bytes."""
    budget = max(memory - RESERVED, _SHARES * _SMALLEST)
    found = max(memory // MIB, _FEWEST_FOUND)
    return IntakeLimits(
        largest_object=budget // _SHARES // MIB * MIB,
        memory=budget,
        found=found,
        found_instances=_INSTANCES_FOUND * found,
    )
