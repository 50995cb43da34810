"""Shared memory: what a client may name, and what happens when its file is not what it said."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from service.errors import InvalidInput
from service.regions import Regions


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Stands for /dev/shm, with a file ``data`` of ten bytes."""
    directory = tmp_path / "shm"
    directory.mkdir()
    (directory / "data").write_bytes(b"0123456789")
    (tmp_path / "outside").write_bytes(b"not for clients")
    return directory


@pytest.fixture
def regions(memory: Path) -> Regions:
    """With one region: the eight bytes from ``1`` to ``8``."""
    made = Regions(memory)
    made.register("r", "/data", 1, 8)
    return made


def refusal(call: Callable[[], object], memory: Path) -> str:
    with pytest.raises(InvalidInput) as refused:
        call()
    assert str(memory) not in str(refused.value) and "outside" not in str(refused.value)
    return str(refused.value)


def open_files() -> int:
    gc.collect()
    return psutil.Process().num_fds()


def test_slot_reads_its_part_of_the_region(regions: Regions) -> None:
    assert regions.slot("r", 2, 3).read() == b"345"
    assert regions.slot("r", 0, 8).read() == b"12345678"
    assert regions.slot("r", 8, 0).read() == b""


def test_slot_is_written_from_its_start_and_not_past_its_end(
    regions: Regions, memory: Path
) -> None:
    slot = regions.slot("r", 2, 3)
    slot.write(b"ab")
    assert (memory / "data").read_bytes() == b"012ab56789"
    assert "4 bytes do not fit into the 3" in refusal(lambda: slot.write(b"abcd"), memory)
    assert (memory / "data").read_bytes() == b"012ab56789"


@pytest.mark.parametrize("key", ["data", "/data"])
def test_key_is_taken_with_and_without_its_slash(memory: Path, key: str) -> None:
    regions = Regions(memory)
    regions.register("r", key, 0, 10)
    (region,) = regions.status("r")
    assert (region.name, region.key, region.offset, region.byte_size) == ("r", key, 0, 10)


@pytest.mark.parametrize(
    "key",
    [
        "", "/", ".", "..", "../outside", "/../outside", "//data", "a/../data", "./data", ".hidden",
        "sub/data", "data\0", "data\n", "dätä", "sem.lock", "/sem.lock", "x" * 256,
        "triton_python_backend_shm_region_1", "/dev/shm/data",
    ],
)  # fmt: skip
def test_key_that_is_no_plain_name_is_refused(memory: Path, key: str) -> None:
    for name in (".hidden", "sem.lock", "triton_python_backend_shm_region_1"):
        (memory / name).write_bytes(bytes(10))
    text = refusal(lambda: Regions(memory).register("r", key, 0, 1), memory)
    assert "names a file in the machine's shared memory" in text


@pytest.mark.parametrize("kind", ["absent", "link", "dangling", "directory", "pipe"])
def test_key_of_something_that_is_no_file_is_refused(memory: Path, kind: str) -> None:
    (memory / "link").symlink_to(memory.parent / "outside")
    (memory / "dangling").symlink_to(memory / "nothing")
    (memory / "directory").mkdir()
    os.mkfifo(memory / "pipe")
    before = open_files()
    refusal(lambda: Regions(memory).register("r", kind, 0, 1), memory)
    assert open_files() == before


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 11), (10, 1), (11, 0), (2**64 - 1, 2), (1, 2**64 - 1), (2**63, 2**63), (0, 0), (-1, 2)],
)
def test_region_outside_of_its_file_is_refused(memory: Path, offset: int, size: int) -> None:
    text = refusal(lambda: Regions(memory).register("r", "data", offset, size), memory)
    assert "has 10 bytes" in text and f"offset {offset} and size {size}" in text


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 9), (8, 1), (9, 0), (2**64 - 1, 2), (1, 2**63 - 1), (-1, 2), (0, -1)]
)
def test_slot_outside_of_its_region_is_refused(
    regions: Regions, memory: Path, offset: int, size: int
) -> None:
    text = refusal(lambda: regions.slot("r", offset, size), memory)
    assert "'r' has 8 bytes" in text and f"offset {offset} and size {size}" in text


def test_file_that_has_shrunk_is_refused_and_not_made_longer(
    regions: Regions, memory: Path
) -> None:
    slot = regions.slot("r", 0, 8)
    os.truncate(memory / "data", 4)
    assert "has shrunk" in refusal(slot.read, memory)
    assert "has shrunk" in refusal(lambda: slot.write(b"ab"), memory)
    assert (memory / "data").read_bytes() == b"0123"
    assert regions.slot("r", 0, 3).read() == b"123"


def test_what_was_read_does_not_change_afterwards(regions: Regions, memory: Path) -> None:
    data = regions.slot("r", 0, 4).read()
    (memory / "data").write_bytes(b"changed by its owner")
    assert data == b"1234"


def test_name_that_is_taken_is_refused_until_it_is_unregistered(
    regions: Regions, memory: Path
) -> None:
    assert "'r' is already" in refusal(lambda: regions.register("r", "data", 0, 1), memory)
    assert regions.slot("r", 0, 8).read() == b"12345678"
    regions.unregister("r")
    regions.register("r", "data", 0, 1)
    assert regions.slot("r", 0, 1).read() == b"0"


def test_region_that_is_not_registered_is_refused(regions: Regions, memory: Path) -> None:
    assert "'s' is registered" in refusal(lambda: regions.slot("s", 0, 1), memory)
    assert "'s' is registered" in refusal(lambda: regions.status("s"), memory)


def test_unregistering_an_unknown_name_changes_nothing(regions: Regions) -> None:
    regions.unregister("s")
    assert [region.name for region in regions.status("")] == ["r"]


def test_empty_name_unregisters_all(regions: Regions) -> None:
    regions.register("s", "data", 0, 1)
    assert [region.name for region in regions.status("")] == ["r", "s"]
    regions.unregister("")
    assert regions.status("") == []


def test_region_in_use_is_finished_with_and_then_closed(memory: Path) -> None:
    before, regions = open_files(), Regions(memory)
    regions.register("r", "data", 0, 10)
    slot = regions.slot("r", 3, 2)
    regions.unregister("r")
    (memory / "data").unlink()
    slot.write(b"ab")
    assert slot.read() == b"ab"
    assert open_files() == before + 1
    del slot
    assert open_files() == before


def test_too_many_regions_are_refused(memory: Path) -> None:
    regions = Regions(memory, most=2)
    for name in "ab":
        regions.register(name, "data", 0, 1)
    assert "2 shared memory regions" in refusal(lambda: regions.register("c", "data", 0, 1), memory)
    regions.unregister("a")
    regions.register("c", "data", 0, 1)


@pytest.mark.parametrize("name", ["", "x" * 257, "ä" * 129])
def test_name_that_is_empty_or_too_long_is_refused(memory: Path, name: str) -> None:
    text = refusal(lambda: Regions(memory).register(name, "data", 0, 1), memory)
    assert "name" in text and len(text) < 100
    Regions(memory, max_name=256).register("x" * 256, "data", 0, 1)
