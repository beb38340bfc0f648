"""The certificates that the gateway shows and trusts, as the configuration names them."""

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


def engine_context(server: ServerConfig) -> ssl.SSLContext | None:
    """Return how `https` instances are known; None: as the system knows them. Raises `ConfigError` for a wrong file."""
    if server.engine_ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(server.engine_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"server.engine_ca_file: must be certificates in PEM, got {error.strerror or error}; check the file"
        ) from error
    return context
