"""HTTP/1.1 bytes: server, client, server-sent events."""
