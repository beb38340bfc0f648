"""`kv_transfer_params` as vLLM's NixlConnector has them: what a prefill is asked and answers, and where its KV is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BLOCK_TOKENS = 16  # of a block, whose ids are told and mean nothing here


@dataclass(frozen=True, slots=True)
class RemoteKv:
    """The KV of a prefilled request: which engine keeps it, under which name, and where that engine is asked."""

    engine_id: str
    request_id: str
    host: str
    port: int

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> RemoteKv | None:
        """Return where a request's KV is; None where the parameters don't say."""
        engine_id, request_id = params.get("remote_engine_id"), params.get("remote_request_id")
        host, port = params.get("remote_host"), params.get("remote_port")
        if not (isinstance(engine_id, str) and isinstance(request_id, str) and isinstance(host, str) and host):
            return None
        return cls(engine_id, request_id, host, port) if type(port) is int and 0 < port < 65_536 else None

    def params(self, num_tokens: int) -> dict[str, Any]:
        """Return what the prefill of `num_tokens` answers."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": list(range(-(-num_tokens // BLOCK_TOKENS))),
            "remote_engine_id": self.engine_id,
            "remote_request_id": self.request_id,
            "remote_host": self.host,
            "remote_port": self.port,
            "tp_size": 1,
        }
