"""Reading and writing, with the protobuf library and Go's pprof as judges."""

from __future__ import annotations

import gzip
import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeobs.errors import ProfileError
from nodeobs.pprof import Profile, read, write
from nodeobs.pprof.decode import Reader
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Sample, ValueType
from nodeobs.pprof.wire import fields, varint
from tests.pprof import oracle
from tests.pprof.conftest import CAPTURES, DATA, GoPprof
from tests.pprof.strategies import profiles

TYPE = b"\x0a\x04\x08\x01\x10\x01"  # a sample type of string 1 in unit of string 1
STRINGS = b"\x32\x00\x32\x01s"
KUBELET = (DATA / "kubelet-threadcreate.pb.gz").read_bytes()


def test_a_capture_is_read_as_protobuf_reads_it(capture: Path) -> None:
    data = capture.read_bytes()
    assert read(data) == oracle.parse(gzip.decompress(data))
    assert read(gzip.decompress(data)) == read(data), "not gzipped"


def test_a_capture_survives_writing(capture: Path, tmp_path: Path, go_pprof: GoPprof) -> None:
    profile = read(capture.read_bytes())
    written = write(profile)
    assert oracle.parse(gzip.decompress(written)) == profile
    path = tmp_path / "written.pb.gz"
    path.write_bytes(written)
    assert go_pprof("-raw", path) == go_pprof("-raw", capture)
    assert "flat%" in go_pprof("-top", path)


@given(profiles())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_by_protobuf_and_by_us(profile: Profile) -> None:
    written = write(profile)
    assert oracle.parse(gzip.decompress(written)) == profile
    assert read(written) == profile


@given(profiles(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_fields_does_not_matter(profile: Profile, order: random.Random) -> None:
    message = oracle.Message.FromString(gzip.decompress(write(profile)))
    parts = [oracle.Message(string_table=message.string_table).SerializeToString()]
    for field, value in message.ListFields():
        if field.name == "string_table":
            continue
        part = oracle.Message()
        if field.is_repeated:
            getattr(part, field.name).extend(value)
        elif field.message_type:
            getattr(part, field.name).CopyFrom(value)
        else:
            setattr(part, field.name, value)
        parts.append(part.SerializeToString())
    order.shuffle(parts)
    assert read(b"".join(parts)) == profile


def test_numbers_may_be_unpacked_and_longer_than_needed() -> None:
    location, function = b"\x22\x06\x08\x01\x22\x02\x08\x07", b"\x2a\x04\x08\x07\x10\x01"
    unpacked = b"\x12\x09\x08\x81\x00\x08\x01\x10\x05\x0a\x00"
    assert read(TYPE + unpacked + location + function + STRINGS) == Profile(
        sample_types=(ValueType("s", "s"),),
        samples=[Sample((1, 1), (5,))],
        mappings=[],
        locations=[Location(1, lines=(Line(7),))],
        functions=[Function(7, "s")],
    )


def test_strings_that_are_not_utf_8_are_kept() -> None:
    data = TYPE + b"\x32\x00\x32\x02\xff\xfe"
    profile = read(data)
    assert profile.sample_types[0].type == b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert read(write(profile)) == profile


def test_fields_of_later_versions_are_ignored() -> None:
    later = b"\x80\x01\x05" + b"\x8a\x01\x02hi" + b"\x95\x01abcd" + b"\x99\x01abcdefgh"
    assert read(TYPE + STRINGS + later) == read(TYPE + STRINGS)


def test_several_gzip_members_are_one_profile() -> None:
    data = gzip.decompress(KUBELET)
    assert read(gzip.compress(data[:100]) + gzip.compress(data[100:])) == read(KUBELET)


def test_equal_profiles_give_equal_bytes(kubelet_cpu: Path) -> None:
    profile = read(kubelet_cpu.read_bytes())
    assert write(profile) == write(replace(profile))
    assert write(profile)[4:8] == bytes(4), "gzip's time"


def test_a_missing_mapping_is_none_as_in_go(tmp_path: Path, go_pprof: GoPprof) -> None:
    given_profile = Profile(
        sample_types=(ValueType("n", "count"),), samples=[Sample((1,), (1,))], locations=[Location(1, 9, 0x10)]
    )
    path = tmp_path / "p.pb.gz"
    path.write_bytes(write(given_profile))
    assert read(path.read_bytes()).locations == [Location(1, 0, 0x10)]
    assert "1: 0x10" in go_pprof("-raw", path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"<html><body>502 Bad Gateway</body>", "not a profile but text: '<html><body>502"),
        (gzip.compress(b"404 page not found\n", mtime=0), "not a profile but text: '404 page"),
        (KUBELET[:-9], "truncated"),
        (KUBELET[:40], "truncated"),
        (KUBELET[:-8] + bytes(8), "broken gzip data: .*check"),
        (KUBELET + b"trailing", "broken gzip data"),
        (b"\x1f\x8b" + b"not gzip at all", "broken gzip data"),
        (gzip.compress(b"", mtime=0) * 1001, "more than 1000 members"),
        (gzip.compress(b"", mtime=0), "no sample types"),
        (TYPE + STRINGS[:-1], "field 6 is 1 bytes long, 0 are left"),
        (TYPE + b"\x32", "no valid number"),
        (TYPE + b"\x80", "no valid number"),
        (TYPE + b"\x48" + b"\xff" * 11, "no valid number"),
        (TYPE + b"\x33\x01", "unknown wire type 3"),
        (STRINGS, "no sample types"),
        (TYPE + b"\x32\x00", "string 1 of 1"),
        (TYPE + b"\x32\x01s\x32\x01s", "first of its strings is not empty"),
        (TYPE + STRINGS + b"\x70\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "string -1 of 2"),
        (TYPE + STRINGS + b"\x48\x01\x48\x02", "two times"),
        (TYPE + STRINGS + b"\x4a\x01\x01", "field 9 of a profile has the wrong wire type"),
        (TYPE + STRINGS + b"\x10\x01", "field 2 of a profile has the wrong wire type"),
        (TYPE + STRINGS + b"\x12\x00", "a sample has 0 values for 1 sample types"),
        (TYPE + STRINGS + b"\x12\x04\x12\x02\x01\x02", "a sample has 2 values for 1"),
        (TYPE + STRINGS + b"\x12\x04\x10\x01\x08\x07", "at location 7, which is missing"),
        (TYPE + STRINGS + b"\x12\x04\x10\x01\x18\x07", "field 3 of a sample"),
        (TYPE + STRINGS + b"\x12\x03\x12\x01\x80", "cut off"),
        (TYPE + STRINGS + b"\x22\x06\x08\x01\x22\x02\x08\x05", "a location is in function 5, which is missing"),
        (TYPE + STRINGS + b"\x22\x02\x08\x01\x22\x02\x08\x01", "location id 1 is reserved or there twice"),
        (TYPE + STRINGS + b"\x2a\x00", "function id 0 is reserved"),
        (TYPE + STRINGS + b"\x1a\x02\x10\x01", "mapping id 0 is reserved"),
        (TYPE + STRINGS + b"\x2a\x04\x08\x01\x10\x09", "string 9 of 2"),
        (TYPE + STRINGS + b"\x2a\x03\x0a\x01\x01", "wrong wire type"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        read(data)


def test_the_unpacked_size_is_bounded() -> None:
    packed = gzip.compress(TYPE + STRINGS + b"\x82\x01\xff\xff\x03" + bytes(0xFFFF))
    assert read(packed)
    with pytest.raises(ProfileError, match="unpacks to more than the allowed 5000 bytes"):
        read(packed, max_bytes=5000)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_profile_or_a_profile_error(data: bytes) -> None:
    for attempt in (data, TYPE + STRINGS + data, zlib.compress(data, wbits=31)):
        _read_or_refuse(attempt)


@given(st.integers(0), st.integers(0, 255), st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_a_damaged_profile_is_a_profile_or_a_profile_error(position: int, byte: int, cut: int) -> None:
    data = bytearray(gzip.decompress(KUBELET))
    position %= len(data)
    data[position] = byte
    del data[position + 1 : position + 1 + cut]
    _read_or_refuse(bytes(data))


def _read_or_refuse(data: bytes) -> None:
    try:
        profile = read(data)
    except ProfileError:
        return
    assert read(write(profile)) == profile


def test_labels_have_one_order() -> None:
    labels = (
        b"\x1a\x04\x08\x01\x18\x02" + b"\x1a\x04\x08\x02\x10\x01" + b"\x1a\x04\x08\x01\x10\x02" + b"\x1a\x02\x08\x01"
    )
    sample = b"\x10\x05" + labels
    data = TYPE + bytes([0x12, len(sample)]) + sample + b"\x32\x00\x32\x01a\x32\x01b"
    assert read(data).samples[0].labels == (Label("a", "b"), Label("b", "a"), Label("a", 2))


def test_mappings_keep_their_flags() -> None:
    mapping = Mapping(3, 0x1000, 0x2000, 7, "/bin/x", "abc", has_filenames=True)
    profile = Profile(sample_types=(ValueType("n", "count"),), mappings=[mapping])
    assert read(write(profile)).mappings == [mapping]


def test_tables_written_in_an_unusual_way_mean_the_same(kubelet_cpu: Path) -> None:
    """Fields in descending order, which our reader takes one by one."""
    data = gzip.decompress(kubelet_cpu.read_bytes())
    turned = b"".join(
        _field(number, _turned(value)) if number in (4, 5) and isinstance(value, bytes) else _field(number, value)
        for number, _, value in fields(data)
    )
    assert turned != data
    assert read(turned) == read(data)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _turned(message: bytes) -> bytes:
    parts = sorted(((number, value) for number, _, value in fields(message)), key=lambda part: -part[0])
    return b"".join(_field(number, value) for number, value in parts)


def test_a_reader_may_be_used_again() -> None:
    reader = Reader()
    for path in CAPTURES:
        assert reader.read(path.read_bytes()) == read(path.read_bytes())
    with pytest.raises(ProfileError):
        reader.read(b"")
    assert reader.read(KUBELET) == read(KUBELET)
