"""The protobuf library's idea of a profile, to compare ours with."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from nodeobs.pprof.profile import (
    Function,
    Label,
    Line,
    Location,
    Mapping,
    Profile,
    Sample,
    ValueType,
    sorted_labels,
)

_Field = descriptor_pb2.FieldDescriptorProto

# The fields of google/pprof's proto/profile.proto in the order of their numbers, which count from 1; * is repeated.
_MESSAGES: Final = {
    "ValueType": "int64 type, int64 unit",
    "Label": "int64 key, int64 str, int64 num, int64 num_unit",
    "Sample": "uint64* location_id, int64* value, Label* label",
    "Mapping": "uint64 id, uint64 memory_start, uint64 memory_limit, uint64 file_offset, int64 filename, "
    "int64 build_id, bool has_functions, bool has_filenames, bool has_line_numbers, bool has_inline_frames",
    "Line": "uint64 function_id, int64 line, int64 column",
    "Location": "uint64 id, uint64 mapping_id, uint64 address, Line* line, bool is_folded",
    "Function": "uint64 id, int64 name, int64 system_name, int64 filename, int64 start_line",
    "Profile": "ValueType* sample_type, Sample* sample, Mapping* mapping, Location* location, Function* function, "
    "bytes* string_table, int64 drop_frames, int64 keep_frames, int64 time_nanos, int64 duration_nanos, "
    "ValueType period_type, int64 period, int64* comment, int64 default_sample_type, int64 doc_url",
}
_SCALARS: Final = {
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
}


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package="oracle", syntax="proto3")
    for name, listed in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, declared in enumerate(listed.split(", "), 1):
            kind, field_name = declared.split()
            label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            kind = kind.rstrip("*")
            field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".oracle.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.Profile"))


Message = _message_class()


def parse(data: bytes) -> Profile:
    """The profile in ``data`` (not gzipped), as the protobuf library reads it."""
    message = Message.FromString(data)
    strings = [text.decode("utf-8", "surrogateescape") for text in message.string_table]

    def value_type(found: Any) -> ValueType:
        return ValueType(strings[found.type], strings[found.unit])

    def label(found: Any) -> Label:
        if found.str:
            return Label(strings[found.key], strings[found.str])
        return Label(strings[found.key], found.num, strings[found.num_unit])

    return Profile(
        sample_types=tuple(map(value_type, message.sample_type)),
        samples=[
            Sample(tuple(found.location_id), tuple(found.value), sorted_labels(list(map(label, found.label))))
            for found in message.sample
        ],
        mappings=[
            Mapping(
                found.id,
                found.memory_start,
                found.memory_limit,
                found.file_offset,
                strings[found.filename],
                strings[found.build_id],
                found.has_functions,
                found.has_filenames,
                found.has_line_numbers,
                found.has_inline_frames,
            )
            for found in message.mapping
        ],
        locations=[
            Location(
                found.id,
                found.mapping_id,
                found.address,
                tuple(Line(line.function_id, line.line, line.column) for line in found.line),
                found.is_folded,
            )
            for found in message.location
        ],
        functions=[
            Function(
                found.id, strings[found.name], strings[found.system_name], strings[found.filename], found.start_line
            )
            for found in message.function
        ],
        drop_frames=strings[message.drop_frames],
        keep_frames=strings[message.keep_frames],
        time_nanos=message.time_nanos,
        duration_nanos=message.duration_nanos,
        period_type=value_type(message.period_type),
        period=message.period,
        comments=tuple(strings[index] for index in message.comment),
        default_sample_type=strings[message.default_sample_type],
        doc_url=strings[message.doc_url],
    )
