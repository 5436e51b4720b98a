"""Looking a file through, whatever its size."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeobs.errors import ProfileError
from nodeobs.pprof import Profile, read, write
from nodeobs.pprof.gunzip import CHUNK
from nodeobs.pprof.profile import NO_TYPE, Mapping, Sample, ValueType
from nodeobs.pprof.scan import ScanResult, scan
from tests.pprof.conftest import DATA
from tests.pprof.strategies import profiles

TYPE = b"\x0a\x04\x08\x01\x10\x02"
STRINGS = b"\x32\x00\x32\x03cpu\x32\x02ns"
KUBELET = (DATA / "kubelet-cpu.pb.gz").read_bytes()
SHARED_FOLDER = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _scan(folder: Path, data: bytes) -> ScanResult:
    path = folder / "p.pb.gz"
    path.write_bytes(data)
    return scan(path)


def _expected(profile: Profile, unpacked_bytes: int) -> ScanResult:
    return ScanResult(
        samples=len(profile.samples),
        sample_types=profile.sample_types,
        period_type=profile.period_type,
        time_nanos=profile.time_nanos,
        duration_nanos=profile.duration_nanos,
        build_id=profile.mappings[0].build_id if profile.mappings else "",
        unpacked_bytes=unpacked_bytes,
    )


def test_a_capture_is_summed_up(capture: Path) -> None:
    data = capture.read_bytes()
    assert scan(capture) == _expected(read(data), len(gzip.decompress(data)))


def test_the_program_is_told_by_its_build_id() -> None:
    assert scan(DATA / "kubelet-cpu.pb.gz").build_id == "2d628ec502cee914ea9c18c37e5e9722e63e3800"


@given(profiles())
@SHARED_FOLDER
def test_it_says_what_reading_says(tmp_path: Path, profile: Profile) -> None:
    data = write(profile)
    assert _scan(tmp_path, data) == _expected(profile, len(gzip.decompress(data)))


def test_types_may_come_after_the_strings_they_refer_to(tmp_path: Path) -> None:
    result = _scan(tmp_path, STRINGS + b"\x32\x02id" + b"\x1a\x02\x30\x03" + b"\x5a\x04\x08\x02\x10\x01" + TYPE)
    assert result.sample_types == (ValueType("cpu", "ns"),)
    assert result.period_type == ValueType("ns", "cpu")
    assert result.build_id == "id"


@pytest.mark.parametrize("distance", range(-24, 3))
def test_fields_across_the_pieces_of_a_file(tmp_path: Path, distance: int) -> None:
    filler = CHUNK + distance - len(TYPE) - 4
    head = TYPE + b"\x2a" + bytes([filler & 0x7F | 0x80, filler >> 7 & 0x7F | 0x80, filler >> 14])
    data = head + bytes(filler) + b"\x48\xb9\x60" + b"\x12\x03\x12\x01\x05" * 3 + STRINGS
    for attempt in (data, gzip.compress(data)):
        result = _scan(tmp_path, attempt)
        assert (result.samples, result.time_nanos, result.unpacked_bytes) == (3, 12345, len(data))
        assert result.sample_types == (ValueType("cpu", "ns"),)


def test_a_large_profile_takes_little_memory_and_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "large.pb.gz"
    packer = zlib.compressobj(1, wbits=31)
    sample = b"\x12\x80\x80\x08\x0a\xfc\xff\x07" + bytes(0x1FFFC)
    with path.open("wb") as file:
        file.write(packer.compress(TYPE))
        for _ in range(1600):
            file.write(packer.compress(sample))
        file.write(packer.compress(STRINGS) + packer.flush())
    scan(path)
    tracemalloc.start()
    try:
        result = scan(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.samples == 1600
    assert result.unpacked_bytes > 200_000_000
    assert peak < 4_000_000
    with pytest.raises(ProfileError, match="more than the allowed 100000000 bytes"):
        scan(path, max_bytes=100_000_000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"<html>Internal Server Error", "not a profile but text: '<html>Internal"),
        (b"\x00\x01<html>", "field 0|field 7"),
        (KUBELET[:-1], "truncated"),
        (KUBELET[: len(KUBELET) // 2], "truncated"),
        (KUBELET[:-8] + b"\0\0\0\0" + KUBELET[-4:], "broken gzip data"),
        (KUBELET + b"\0", "broken gzip data|truncated"),
        (gzip.decompress(KUBELET)[:-1], "in the middle of a field"),
        (gzip.compress(gzip.decompress(KUBELET)[:-300]), "in the middle of a field"),
        (STRINGS, "no sample types"),
        (TYPE + b"\x32\x00", "string 1 of 1"),
        (TYPE + b"\x32\x01x\x32\x01y\x32\x01z", "first of its strings"),
        (TYPE + STRINGS + b"\x12", "in the middle"),
        (TYPE + STRINGS + b"\x10\x01", "field 2 has the wire type 0"),
        (TYPE + STRINGS + b"\x4b" + bytes(30), "field 9 has the wire type 3"),
        (TYPE + STRINGS + b"\x48" + b"\xff" * 30, "no valid number"),
        (TYPE + STRINGS + b"\x48\x01\x48\x01", "two times"),
        (b"\x0a\xff\xff\x7f" + bytes(1 << 21), "field 1 is 2097151 bytes long"),
        (b"".join(b"\x0a\x06\x08%c\x01\x10%c\x02" % (i, i) for i in range(128, 256)), "more than 128 strings"),
        (TYPE * 200 + STRINGS, "more than 128 strings"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        _scan(tmp_path, data)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = (DATA / "kubelet-mutex.pb.gz").read_bytes()
    for size in range(len(data)):
        with pytest.raises(ProfileError):
            _scan(tmp_path, data[:size])


@given(st.binary(max_size=200))
@SHARED_FOLDER
def test_any_bytes_are_a_profile_or_a_profile_error(tmp_path: Path, data: bytes) -> None:
    for attempt in (data, TYPE + STRINGS + data, zlib.compress(data, wbits=31)):
        try:
            result = _scan(tmp_path, attempt)
        except ProfileError:
            continue
        assert result.sample_types


def test_samples_without_a_period_type(tmp_path: Path) -> None:
    profile = Profile(sample_types=(ValueType("n", "count"),), samples=[Sample((), (1,))], mappings=[Mapping(1)])
    assert _scan(tmp_path, write(profile)).period_type == NO_TYPE


@pytest.mark.slow
@pytest.mark.parametrize("field", [b"\x12\x00", b"\x80\x01\x00"], ids=["samples", "numbers"])
def test_a_small_file_of_very_many_fields_does_not_take_an_hour(tmp_path: Path, field: bytes) -> None:
    packer = zlib.compressobj(wbits=31)
    block = field * 1_000_000
    packed = b"".join([packer.compress(TYPE + STRINGS), *(packer.compress(block) for _ in range(21)), packer.flush()])
    with pytest.raises(ProfileError, match="more fields than any"):
        _scan(tmp_path, packed)
