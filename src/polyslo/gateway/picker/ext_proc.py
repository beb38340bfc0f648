"""The gRPC port of the endpoint picker: Envoy's external processing, and gRPC's own health checks.

Source: `envoy.service.ext_proc.v3`, and the Endpoint Picker Protocol of the Gateway API's inference extension, 1.0.
The only modules here that import gRPC or protobuf are this one, `dialogue`, `messages` and `protocol`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from polyslo.errors import ConfigError
from polyslo.gateway.config.server import ServerConfig
from polyslo.gateway.picker.dialogue import Dialogue, Handle
from polyslo.gateway.picker.protocol import NOT_SERVING, SERVING, ext_proc

SERVICE, HEALTH = "envoy.service.ext_proc.v3.ExternalProcessor", "grpc.health.v1.Health"
LIVENESS = "liveness"  # as the protocol calls what it asks health of
_KNOWN = frozenset({"", LIVENESS, "readiness", SERVICE})
_MESSAGE_BYTES = 1 << 20  # that a message may have besides a body


class ExtProc:
    """Listens; each request is a stream, and becomes an exchange that `handle` is given."""

    def __init__(self, server: ServerConfig, handle: Handle, is_ready: Callable[[], bool]) -> None:
        self._config = server
        self._handle = handle
        self._is_ready = is_ready
        self.port = 0

    async def start(self) -> None:
        """Listen; raises `ConfigError` where that can't be."""
        config = self._config
        assert config.ext_proc_port is not None
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", config.max_body_bytes + _MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            )
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "Process": grpc.stream_stream_rpc_method_handler(
                            self._process,
                            ext_proc.ProcessingRequest.FromString,
                            ext_proc.ProcessingResponse.SerializeToString,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    HEALTH,
                    {
                        "Check": grpc.unary_unary_rpc_method_handler(
                            self._check,
                            ext_proc.HealthCheckRequest.FromString,
                            ext_proc.HealthCheckResponse.SerializeToString,
                        )
                    },
                ),
            )
        )
        host = f"[{config.host}]" if ":" in config.host else config.host
        address = f"{host}:{config.ext_proc_port}"
        try:
            credentials = _credentials(config)
            self.port = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise ConfigError(f"server.ext_proc_port: can't listen on {address}; choose another one") from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, let what is under way end within `grace_s`, then cut what is left."""
        await self._server.stop(grace_s)

    async def _process(self, _: Any, context: Any) -> None:
        await Dialogue(context, self._handle, self._config.max_body_bytes).run()

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in _KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there are {', '.join(sorted(_KNOWN - {''}))}")
        is_well = request.service == LIVENESS or self._is_ready()
        return ext_proc.HealthCheckResponse(status=SERVING if is_well else NOT_SERVING)


def _credentials(server: ServerConfig) -> Any:
    """Return how it speaks TLS; None where it does not."""
    if server.tls_cert_file is None or server.tls_key_file is None:
        return None
    return grpc.ssl_server_credentials(
        [(Path(server.tls_key_file).read_bytes(), Path(server.tls_cert_file).read_bytes())]
    )
