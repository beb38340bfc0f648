"""The certificate that the gateway shows, as the configuration names it."""

from __future__ import annotations

import ssl

from polyslo.errors import ConfigError
from polyslo.gateway.config.server import ServerConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """Return how the gateway speaks TLS; None where it does not. Raises `ConfigError` for files that don't fit."""
    if server.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(server.tls_cert_file, server.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"server.tls_cert_file: must be a certificate chain that server.tls_key_file belongs to, in PEM, got "
            f"{error.strerror or error}; check both files"
        ) from error
    return context
