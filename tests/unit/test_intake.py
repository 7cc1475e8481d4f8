"""The limits of intake follow from the memory."""

from pathlib import Path

import pytest
from understudy.adapters.memory import parse_size
from understudy.core.intake import MIB, RESERVED, limits

GIB = 2**30
STORED_FOURFOLD, GIVEN_THREEFOLD = 4, 3


@pytest.mark.parametrize(
    ("memory", "largest"), [(1 * GIB, 73), (2 * GIB, 219), (4 * GIB, 512), (8 * GIB, 1097)]
)
def test_largest_object_is_the_documented_one(memory: int, largest: int) -> None:
    assert limits(memory).largest_object == largest * MIB
    page = (Path(__file__).parents[2] / "docs" / "intake.md").read_text(encoding="utf-8")
    assert f"| {largest} MiB |" in page


@pytest.mark.parametrize("memory", [1 * GIB, 2 * GIB, 16 * GIB])
def test_limits_leave_room_for_orthanc_itself_and_for_a_reader_beside_the_largest(memory: int) -> None:
    found = limits(memory)
    assert found.memory + RESERVED <= memory
    assert found.largest_object * (STORED_FOURFOLD + GIVEN_THREEFOLD) <= found.memory


def test_limits_of_little_memory_still_take_an_ordinary_image() -> None:
    assert limits(300 * MIB).largest_object == 16 * MIB


@pytest.mark.parametrize(
    ("text", "size"),
    [("2g", 2 * GIB), ("512m", 512 * MIB), ("1024", 1024), ("3GB", 3 * GIB), ("4096k", 4 * MIB)],
)
def test_parse_size_reads_what_docker_reads(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "two", "2t", "-1g", "1.5g"])
def test_parse_size_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match="no size of memory"):
        parse_size(text)


@pytest.mark.parametrize(("memory", "found"), [(300, 512), (1024, 1024), (2048, 2048), (16_384, 2048)])
def test_answers_to_a_query_are_few_enough_that_a_store_need_not_wait_long(memory: int, found: int) -> None:
    given = limits(memory * MIB)
    assert (given.found, given.found_instances) == (found, 4 * found)
