"""Who may look at the management port, and TLS on all sides: clients, management, engines."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway_bench import CHAT, COMPLETIONS, LOOSE, MODEL, PROFILE, Bench, chat, completion, run

from polyslo.errors import ConfigError
from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.requests.keys import hash_of
from polyslo.wire.client import Origin

PEM = Path(__file__).parent.parent / "wire" / "localhost.pem"
LOOKS = [b"/metrics", b"/", b"/state", b"/get_loads", b"/workers", b"/requests/r"]
VIEW, ADMIN = {"view_key_hash": hash_of(b"viewer")}, {"admin_key_hash": hash_of(b"admin")}
EVENTS = [b'data: {"choices":[{"index":0,"text":"%d","finish_reason":null}]}\n\n' % k for k in range(30)]


def bearer(key):
    """Return the header that programs send."""
    return [(b"authorization", b"Bearer " + key)]


def password(key):
    """Return the header that browsers send."""
    return [(b"authorization", b"Basic " + b64encode(b"anybody:" + key))]


def test_without_a_key_everybody_may_look():
    """The port is bound to this machine unless told otherwise; an admin key alone changes nothing."""

    async def main():
        async with Bench(server=ADMIN) as bench:
            for path in LOOKS[:-1]:
                assert (await bench.get(path)).status == 200

    run(main)


def test_with_a_key_only_who_has_it_may_look():
    """Metrics, page and state are for the key and the admin's, as a bearer token or a password; health is for all."""

    async def main():
        async with Bench(server=VIEW | ADMIN) as bench:

            async def status(path, headers=(), method=b"GET"):
                return (await bench.ask(path, None, headers, method=method, origin=bench.management)).status

            for path in LOOKS:
                for headers in ((), bearer(b"other"), password(b"other"), [(b"authorization", b"Basic !")]):
                    assert await status(path, headers) == 401
                for key in (b"viewer", b"admin"):
                    assert await status(path, bearer(key)) in (200, 404)
                    assert await status(path, password(key)) in (200, 404)
            assert await status(b"/health") == 200
            refused = await bench.get(b"/metrics")
            assert (b"www-authenticate", b'Basic realm="polyslo"') in refused.headers  # browsers ask for a password
            assert await status(b"/workers/e0", bearer(b"viewer"), b"DELETE") == 401

    run(main)


def test_events_are_for_the_key_alone():
    """The page's stream, too."""

    async def main():
        async with Bench(server=VIEW) as bench:
            assert (await bench.get(b"/events")).status == 401
            stream = bench.send(b"/events", None, bearer(b"viewer"), method=b"GET", origin=bench.management)
            await stream.until(lambda reply: b"event: state" in reply.body)
            stream.call.abort()

    run(main)


def test_the_key_for_looking_is_none_for_requests():
    """Where only that one is set, requests need none."""

    async def main():
        async with Bench(server=VIEW) as bench:
            assert (await bench.ask(CHAT, chat(2))).status == 200

    run(main)


def test_tls_on_every_side():
    """Clients, whoever looks, and an engine that only its own authority vouches for: streams come through whole."""
    trusted = ssl.create_default_context(cafile=str(PEM))

    async def main():
        async with engine() as port:
            server = {
                "port": 0, "metrics_port": 0, "metrics_host": "127.0.0.1", "metrics_tls": True,
                "tls_cert_file": str(PEM), "tls_key_file": str(PEM), "engine_ca_file": str(PEM),
            }  # fmt: skip
            model = {"name": MODEL, "profile": PROFILE, "endpoints": [{"url": f"https://127.0.0.1:{port}"}]}
            gateway = Gateway(parse_config({"server": server, "classes": LOOSE, "models": [model]}, "test.toml"))
            await gateway.start()
            origin = Origin(f"https://127.0.0.1:{gateway.listener.port}", ssl=trusted)
            look = Origin(f"https://127.0.0.1:{gateway.management_listener.port}", ssl=trusted)
            try:
                reply = await Bench().ask(COMPLETIONS, completion(3, stream=True), origin=origin)
                assert (reply.failure, reply.status, reply.body) == (None, 200, b"".join(EVENTS))
                assert (await Bench().ask(b"/metrics", None, method=b"GET", origin=look)).status == 200
                assert gateway.addresses()[1].startswith("page and metrics at https://")
            finally:
                await origin.close()
                await look.close()
                await gateway.stop()

    run(main)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"metrics_tls": True}, "server.metrics_tls: needs a certificate, got none; set server.tls_cert_file"),
        ({"engine_ca_file": "/nowhere.pem"}, "server.engine_ca_file: must be certificates in PEM, got No such file"),
        ({"engine_ca_file": __file__}, "server.engine_ca_file: must be certificates in PEM, got"),
    ],
)
def test_certificates_that_are_none_are_told(server, message):
    """At the start, before anything listens."""

    async def main():
        table = {"server": server, "models": [{"name": MODEL, "profile": PROFILE, "endpoints": [{"url": "http://a"}]}]}
        with pytest.raises(ConfigError) as caught:
            await Gateway(parse_config(table, "test.toml")).start()
        assert message in str(caught.value)

    run(main)


@asynccontextmanager
async def engine():
    """Run a server with TLS that answers what engines are asked: a stream to completions, an empty list to the rest."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"POST"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for event in EVENTS:
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await asyncio.sleep(0.001)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
