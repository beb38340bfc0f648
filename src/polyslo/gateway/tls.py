"""How the gateway speaks HTTPS."""

from __future__ import annotations

import ssl

from polyslo.gateway.config_server import ServerConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """Return what connections are encrypted with; None where they are not."""
    if server.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert_file, server.tls_key_file)
    return context
