"""Every key of the configuration is read by what serves: a key that does nothing would be a promise not kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click import Option
from gateway_bench import COMPLETIONS, LOOSE, MODEL, Bench, completion, run

from polyslo.cli.serve import serve_command
from polyslo.core.state import UNHEALTHY
from polyslo.gateway.config.flags import FLAGS, MODEL_FLAGS, URL_FLAGS, option
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.table import NamedTables, Table, Tables, settings_of
from polyslo.gateway.requests.keys import hash_of

DOCS = Path(__file__).parents[2] / "docs"
PEM = Path(__file__).parents[1] / "wire" / "localhost.pem"
# Keys that a running gateway does not read itself, and who does.
READ_ELSEWHERE = {
    "server.log_level": "the command line, before the gateway is built",
    "slo.default": "GatewayConfig.default_class, worked out once",
    "keys.default": "GatewayConfig.default_class_of",
    "tiers.tpots_ms": "GatewayConfig.tiers_s, worked out once",
    "models.profile": "ModelConfig.profile_name",
    "models.max_instances": "ModelConfig.num_slots",
    "models.endpoints.name": "EndpointConfig.title",
    "tiers.learn": "the command line, before the gateway is built",
    "tiers.learn_from": "the command line, before the gateway is built",
}


def keys_of(cls, path=""):
    """Yield (class, key, path) of all keys below a class, tables apart."""
    for entry, declared in settings_of(cls):
        if isinstance(declared.kind, Table | Tables | NamedTables):
            yield from keys_of(declared.kind.cls, f"{path}{entry.name}.")
        else:
            yield cls, entry.name, path + entry.name


COMPARING = ("polyslo.gateway.explain", "polyslo.gateway.config.reconfigure")
ALL = list(keys_of(GatewayConfig))


@pytest.fixture
def read(monkeypatch):
    """What serving code reads of the configuration: (class, key); what only reads or checks it is left out."""
    seen = set()

    def watch(cls):
        plain = cls.__getattribute__

        def get(config, name):
            if _is_read_by_serving(sys._getframe(1)):
                seen.add((cls, name))
            return plain(config, name)

        monkeypatch.setattr(cls, "__getattribute__", get)

    for cls in {cls for cls, _, _ in ALL}:
        watch(cls)
    return seen


def _is_read_by_serving(frame):
    """Tell whether what serves asks: through the configuration's own properties too, but not to compare or check."""
    while frame is not None:
        module = frame.f_globals["__name__"]
        if module.startswith(COMPARING) or frame.f_code.co_name in ("__eq__", "__repr__", "__hash__"):
            return False
        if not module.startswith("polyslo.gateway.config.gateway"):
            return module.startswith("polyslo.")
        frame = frame.f_back
    return False


def test_serving_reads_every_key(read, tmp_path):
    """A gateway with everything switched on serves requests of all kinds; then no key is left that it never read."""
    journal, file, listed = tmp_path / "j", tmp_path / "g.toml", tmp_path / "i.json"
    file.write_text("x")
    listed.write_text('{"endpoints": []}')
    table = {
        "server": {"tls_cert_file": str(PEM), "tls_key_file": str(PEM), "admin_key_hash": hash_of(b"admin")},
        "classes": LOOSE,
        "keys": {"a": {"hash": hash_of(b"a"), "classes": ["chat"], "min_ttft_ms": 1, "min_tpot_ms": 1}},
        "journal": {"file": str(journal)},
        "instances_file": str(listed),
        "model": {"shadow": "lmetric"},
    }

    async def main():
        async with Bench(1, file=str(file), **table) as bench:
            await bench.gateway.changes.reloads.look()
            bench.gateway.front.handle(_Asked())
            admin = [(b"authorization", b"Bearer admin")]
            reply = await bench.ask(b"/workers", {"url": "http://127.0.0.1:9"}, admin, origin=bench.management)
            assert reply.status == 202
            assert (await bench.ask(b"/metrics", None, method=b"GET", origin=bench.management)).status == 200
        plain = {key: value for key, value in table.items() if key not in ("server", "keys")}
        plain["server"] = {"max_concurrent_requests": 1}
        async with Bench(1, **plain) as bench:
            first = bench.send(COMPLETIONS, completion(stream=True), [(b"x-polyslo-explain", b"1")])
            assert (await bench.ask(COMPLETIONS, completion())).status == 200  # after its turn in line
            assert (await first.over()).status == 200
            bench.model.close_instance(0, UNHEALTHY)
            bench.model.health.succeeded(0)
            await bench.settle()

    run(main)
    unread = {path for cls, key, path in ALL if (cls, key) not in read}
    assert unread <= set(READ_ELSEWHERE)
    assert "server.log_level" in unread, "nothing is watched"


class _Asked:
    """A request with a key and a tight wish, handed in past TLS."""

    method, path, query, body = b"POST", COMPLETIONS, b"", b""

    def __init__(self):
        self.headers = [(b"authorization", b"Bearer a"), (b"x-slo-tpot-ms", b"0.5")]
        self.body = b'{"model":"%s","prompt":"x","max_tokens":1}' % MODEL.encode()
        self.on_gone = self.on_blocked = None
        self.status = None

    def respond(self, status, headers, body):
        """Take the answer."""
        self.status = status

    def abort(self):
        """Be cut when the gateway stops."""


def test_what_is_read_elsewhere_is_a_key():
    """The list of exceptions names keys that there are."""
    assert set(READ_ELSEWHERE) <= {path for _, _, path in ALL}


def test_every_key_is_in_the_reference():
    """docs/gateway-config.md has a row for each."""
    text = (DOCS / "gateway-config.md").read_text()
    for _, key, _ in ALL:
        assert f"| `{key}` |" in text, key


def test_the_flags_of_the_docs_are_those_of_the_command():
    """Each that the docs list is an option of `polyslo serve`, and each option has its place in the configuration."""
    text = (DOCS / "gateway-config.md").read_text()
    section = text.split("\n## Flags\n")[1].split("\n## ")[0]
    told = set(re.findall(r"`(--[a-z-]+)`", section))
    options = {name for each in serve_command.params if isinstance(each, Option) for name in each.opts}
    placed = {option(name) for name in (*FLAGS, *MODEL_FLAGS, *URL_FLAGS, "api_key")}
    assert told <= options
    assert options - {"--help"} <= placed
    assert {"--worker-urls", "--prefill", "--decode", "--queue-size", "--request-timeout-secs"} <= told
