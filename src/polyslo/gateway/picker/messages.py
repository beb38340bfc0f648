"""Envoy's `ProcessingRequest`s read, and `ProcessingResponse`s written.

Where a request goes is said twice, as the endpoint picker protocol wants it: as a header, and as dynamic metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyslo.gateway.picker.picked_exchange import Pick
from polyslo.gateway.picker.protocol import OVERWRITE_OR_ADD, ext_proc
from polyslo.gateway.relays.passage import Header
from polyslo.gateway.requests.openai_errors import Answer
from polyslo.wire.fields import Headers, end_to_end

ENDPOINT = "x-gateway-destination-endpoint"
METADATA_NAMESPACE = "envoy.lb"
SUBSET, SUBSET_NAMESPACE = "x-gateway-destination-endpoint-subset", "envoy.lb.subset_hint"
CHUNK_BYTES = 60_000  # of a body; Envoy wants at most 64 KiB in a message
_FRAMING = frozenset({b"host", b"content-length"})  # which Envoy minds itself

Message = Any  # of protobuf, which has no types


def read_headers(message: Message) -> tuple[dict[bytes, bytes], list[Header]]:
    """Return the pseudo headers (`:path` and so on) and the others of an `HttpHeaders`."""
    fields = [
        (field.key.lower().encode(), field.raw_value or field.value.encode()) for field in message.headers.headers
    ]
    return dict(field for field in fields if field[0][:1] == b":"), [field for field in fields if field[0][:1] != b":"]


def read_subset(message: Message) -> frozenset[str] | None:
    """Return the endpoints that a request may go to; None where the gateway doesn't say."""
    told = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in told or SUBSET not in told[SUBSET_NAMESPACE]:
        return None
    return frozenset(map(str, told[SUBSET_NAMESPACE][SUBSET]))


def picked(came: Headers, pick: Pick, endpoint: str, num_body_bytes: int | None) -> Message:
    """Return what becomes of a request's headers: an engine's, and where to; `num_body_bytes` of a new body."""
    wanted = list(pick.headers)
    if num_body_bytes is not None:
        wanted.append((b"content-length", b"%d" % num_body_bytes))
    names = {name for name, _ in wanted} | _FRAMING
    unwanted = {name.decode("latin-1") for name, _ in end_to_end(came) if name not in names}
    there = set(came)
    new = [field for field in wanted if field not in there]
    return _common([*new, (ENDPOINT.encode(), endpoint.encode())], sorted(unwanted))


def destined(response: Message, endpoint: str) -> Message:
    """Return a response that also says in its metadata where the request goes."""
    response.dynamic_metadata.get_or_create_struct(METADATA_NAMESPACE)[ENDPOINT] = endpoint
    return response


def request_head(common: Message = None) -> Message:
    """Return the response to a request's headers."""
    return ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse(response=common))


def request_body(common: Message) -> Message:
    """Return the response to a request's whole body."""
    return ext_proc.ProcessingResponse(request_body=ext_proc.BodyResponse(response=common))


def streamed_request(body: bytes, *, ends: bool) -> Iterator[Message]:
    """Yield a request's body in pieces; `ends`: no trailers follow."""
    for start in range(0, len(body), CHUNK_BYTES) or (0,):
        rest = start + CHUNK_BYTES < len(body)
        piece = _streamed(body[start : start + CHUNK_BYTES], ends and not rest)
        yield ext_proc.ProcessingResponse(request_body=piece)


def request_trailers() -> Message:
    """Return the response to a request's trailers, which go on as they came."""
    return ext_proc.ProcessingResponse(request_trailers=ext_proc.TrailersResponse())


def response_head(told: Sequence[Header]) -> Message:
    """Return the response to a response's headers: they get ours."""
    return ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse(response=_common(told)))


def response_body(body: Message, *, is_streamed_back: bool) -> Message:
    """Return the response to a piece of a response, which goes on as it is."""
    piece = _streamed(body.body, body.end_of_stream) if is_streamed_back else ext_proc.BodyResponse()
    return ext_proc.ProcessingResponse(response_body=piece)


def response_trailers() -> Message:
    """Return the response to a response's trailers, which go on as they came."""
    return ext_proc.ProcessingResponse(response_trailers=ext_proc.TrailersResponse())


def immediate(answer: Answer) -> Message:
    """Return an answer that no engine gives."""
    response = ext_proc.ImmediateResponse(headers=_common(answer.headers).header_mutation, body=answer.body)
    response.status.code = answer.status
    return ext_proc.ProcessingResponse(immediate_response=response)


def with_body(common: Message, body: bytes) -> Message:
    """Return a change that replaces the body, too."""
    common.body_mutation.body = body
    return common


def _streamed(body: bytes, ends: bool) -> Message:
    streamed = ext_proc.StreamedBodyResponse(body=body, end_of_stream=ends)
    mutation = ext_proc.BodyMutation(streamed_response=streamed)
    return ext_proc.BodyResponse(response=ext_proc.CommonResponse(body_mutation=mutation))


def _common(headers: Sequence[Header], removed: Sequence[str] = ()) -> Message:
    fields = [
        ext_proc.HeaderValueOption(
            header=ext_proc.HeaderValue(key=name.decode("latin-1"), raw_value=value),
            append_action=OVERWRITE_OR_ADD,
        )
        for name, value in headers
    ]
    mutation = ext_proc.HeaderMutation(set_headers=fields, remove_headers=removed)
    return ext_proc.CommonResponse(header_mutation=mutation)
