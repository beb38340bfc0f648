"""The messages of external processing and of gRPC's health checks, as far as they are used here.

Source: the field numbers of `envoy.service.ext_proc.v3` and `grpc.health.v1`. They are declared here as the package
that has them all, xds-protos, brings OpenTelemetry's messages along, older ones than its exporter needs.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, DUPLEX = range(5)  # how bodies are sent; DUPLEX: FULL_DUPLEX_STREAMED
OVERWRITE_OR_ADD = 2  # of a header
SERVING, NOT_SERVING = 1, 2

_STRUCT = "google.protobuf.Struct"
# Fields by number. "*": repeated; "map": of Structs, by texts; the fields of one group are a oneof.
_MESSAGES: dict[str, tuple[str, dict[str, tuple[int, str]]]] = {
    "HeaderValue": ("", {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")}),
    "HeaderMap": ("", {"headers": (1, "*HeaderValue")}),
    "HeaderValueOption": ("", {"header": (1, "HeaderValue"), "append_action": (3, "int32")}),
    "HeaderMutation": ("", {"set_headers": (1, "*HeaderValueOption"), "remove_headers": (2, "*string")}),
    "Metadata": ("", {"filter_metadata": (1, "map")}),
    "ProtocolConfiguration": ("", {"request_body_mode": (1, "int32"), "response_body_mode": (2, "int32")}),
    "HttpHeaders": ("", {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")}),
    "HttpBody": ("", {"body": (1, "bytes"), "end_of_stream": (2, "bool")}),
    "HttpTrailers": ("", {"trailers": (1, "HeaderMap")}),
    "ProcessingRequest": (
        "request",
        {
            "request_headers": (2, "HttpHeaders"),
            "response_headers": (3, "HttpHeaders"),
            "request_body": (4, "HttpBody"),
            "response_body": (5, "HttpBody"),
            "request_trailers": (6, "HttpTrailers"),
            "response_trailers": (7, "HttpTrailers"),
            "metadata_context": (8, "Metadata"),
            "protocol_config": (11, "ProtocolConfiguration"),
        },
    ),
    "StreamedBodyResponse": ("", {"body": (1, "bytes"), "end_of_stream": (2, "bool")}),
    "BodyMutation": ("mutation", {"body": (1, "bytes"), "streamed_response": (3, "StreamedBodyResponse")}),
    "CommonResponse": ("", {"header_mutation": (2, "HeaderMutation"), "body_mutation": (3, "BodyMutation")}),
    "HeadersResponse": ("", {"response": (1, "CommonResponse")}),
    "BodyResponse": ("", {"response": (1, "CommonResponse")}),
    "TrailersResponse": ("", {"header_mutation": (1, "HeaderMutation")}),
    "HttpStatus": ("", {"code": (1, "int32")}),
    "ImmediateResponse": ("", {"status": (1, "HttpStatus"), "headers": (2, "HeaderMutation"), "body": (3, "bytes")}),
    "ProcessingResponse": (
        "response",
        {
            "request_headers": (1, "HeadersResponse"),
            "response_headers": (2, "HeadersResponse"),
            "request_body": (3, "BodyResponse"),
            "response_body": (4, "BodyResponse"),
            "request_trailers": (5, "TrailersResponse"),
            "response_trailers": (6, "TrailersResponse"),
            "immediate_response": (7, "ImmediateResponse"),
            "dynamic_metadata": (8, _STRUCT),
        },
    ),
    "HealthCheckRequest": ("", {"service": (1, "string")}),
    "HealthCheckResponse": ("", {"status": (1, "int32")}),
}
_OUTSIDE_ONEOF = ("metadata_context", "protocol_config", "dynamic_metadata")
_PACKAGE = "polyslo.ext_proc"  # names are not on the wire
_TYPES = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int32": FieldDescriptorProto.TYPE_INT32,  # also of enums, whose bytes are the same
}


def _declared() -> FileDescriptorProto:
    file = FileDescriptorProto(
        name="polyslo/ext_proc.proto", package=_PACKAGE, syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name]
    )
    for name, (oneof, fields) in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if oneof:
            message.oneof_decl.add(name=oneof)
        for field_name, (number, kind) in fields.items():
            field = _add(message, field_name, number, kind)
            if oneof and field_name not in _OUTSIDE_ONEOF:
                field.oneof_index = 0
    return file


def _add(message: DescriptorProto, name: str, number: int, kind: str) -> FieldDescriptorProto:
    is_repeated = kind[0] == "*" or kind == "map"
    if kind == "map":
        entry = message.nested_type.add(name="FilterMetadataEntry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, _STRUCT)
        kind = f"{message.name}.{entry.name}"
    kind = kind.removeprefix("*")
    field = message.field.add(
        name=name,
        number=number,
        label=FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL,
        type=_TYPES.get(kind, FieldDescriptorProto.TYPE_MESSAGE),
    )
    if kind not in _TYPES:
        field.type_name = f".{kind}" if kind == _STRUCT else f".{_PACKAGE}.{kind}"
    return field


def _classes() -> dict[str, Any]:
    pool = DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(_declared())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES}


class Messages:
    """The classes of the messages, by name."""

    def __init__(self) -> None:
        self._classes = _classes()

    def __getattr__(self, name: str) -> Any:
        return self._classes[name]


ext_proc = Messages()
