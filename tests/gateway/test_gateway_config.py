"""The configuration: what is right is read, and everything that is wrong is said at once, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig, load_config, parse_config
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.requests.keys import hash_of

HASH, OTHER_HASH = hash_of(b"one"), hash_of(b"other")
SERVED: dict[str, Any] = {"models": [{"endpoints": [{"url": "http://a:1"}]}]}
CLASSES = {"chat": {"ttft_ms": 500, "tpot_ms": 50}, "voice": {"ttft_ms": 300, "tpot_ms": 20}}


def mistakes(table: dict[str, Any], flags: dict[str, Any] | None = None) -> tuple[str, ...]:
    """Return all that is wrong with a table that is served by one instance, unless it says otherwise."""
    with pytest.raises(MistakenConfigError) as caught:
        parse_config(SERVED | table, "g.toml", flags)
    return caught.value.mistakes


def test_worker_urls_are_enough() -> None:
    """Everything but the instances has a default: the ports of the field, the paper's tiers, no keys."""
    config = GatewayConfig.of_worker_urls(["http://a:8000", "https://b:8001/"])
    (model,) = config.models
    assert [endpoint.url for endpoint in model.endpoints] == ["http://a:8000", "https://b:8001"]
    assert [endpoint.title for endpoint in model.endpoints] == ["a:8000", "b:8001"]
    assert (model.name, model.mode, model.policy) == ("*", "co", "polyserve")
    assert (config.server.host, config.server.port, config.server.metrics_port) == ("127.0.0.1", 30_000, 29_000)
    assert config.tiers_s == (0.02, 0.03, 0.05, 0.1)
    assert (config.default_class.ttft_ms, config.default_class.tpot_ms) == (1000, 100)


def test_a_file_with_all_tables(tmp_path: Path) -> None:
    """A file gives what it says; classes and models keep their order."""
    file = tmp_path / "g.toml"
    file.write_text(
        f"""
        instances_file = "instances.json"
        [server]
        port = 8080
        queue_timeout_s = 5
        admin_key_hash = "{HASH}"
        [slo]
        default = "chat"
        on_tighter = "refuse"
        [classes.chat]
        ttft_ms = 500
        tpot_ms = 50.5
        [classes.voice]
        ttft_ms = 300
        tpot_ms = 20
        [tiers]
        learn = "auto"
        learn_from = ["a.journal"]
        [keys.alice]
        hash = "{OTHER_HASH}"
        classes = ["chat"]
        min_tpot_ms = 30
        [[models]]
        name = "llama"
        mode = "pd"
        [[models.endpoints]]
        url = "http://a:1"
        role = "prefill"
        labels = {{zone = "a"}}
        [[models.endpoints]]
        url = "http://[::1]:2"
        role = "decode"
        api_key_env = "ENGINE_KEY"
        """
    )
    config = load_config(str(file))
    assert config.server.queue_timeout_s == 5.0
    assert config.default_class.name == "chat"
    assert config.tiers_s == (0.02, 0.0505)
    assert config.keys[0].min_tpot_ms == 30
    assert config.default_class_of(config.keys[0]).name == "chat"
    assert [endpoint.role for endpoint in config.models[0].endpoints] == ["prefill", "decode"]
    assert config.models[0].endpoints[0].labels == (("zone", "a"),)


def test_hashes_are_not_shown() -> None:
    """Neither a key's nor the admin key's hash is in the configuration's text."""
    table = SERVED | {"keys": {"a": {"hash": HASH}}, "server": {"admin_key_hash": OTHER_HASH}}
    config = parse_config(table, "g.toml")
    assert "sha256" not in repr(config)
    assert config.keys[0].hash == HASH


def test_without_a_default_the_loosest_class_is_it() -> None:
    """A request that asks for nothing gets the class that costs least."""
    assert parse_config(SERVED | {"classes": CLASSES}, "g.toml").default_class.name == "chat"
    config = parse_config(SERVED | {"tiers": {"tpots_ms": [200, 40]}}, "g.toml")
    assert config.tiers_s == (0.04, 0.2)
    assert config.default_class.tpot_ms == 200


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sever": {}}, "g.toml: unknown key 'sever'; did you mean 'server'?"),
        ({"server": {"prot": 1}}, "g.toml, [server]: unknown key 'prot'; did you mean 'port'?"),
        ({"server": 3}, "server: must be a table, got 3; write [server] in g.toml"),
        (
            {"server": {"port": 70_000}},
            "server.port: must be a whole number from 0 to 65535, got 70000; set server.port in g.toml",
        ),
        (
            {"server": {"queue_timeout_s": 0}},
            "server.queue_timeout_s: must be a number above 0 and at most 86400, got 0; "
            "set server.queue_timeout_s in g.toml",
        ),
        (
            {"server": {"queue_timeout_s": float("nan")}},
            "server.queue_timeout_s: must be a number above 0 and at most 86400, got nan; "
            "set server.queue_timeout_s in g.toml",
        ),
        (
            {"server": {"log_level": "loud"}},
            'server.log_level: must be "debug" or "info" or "warning" or "error", got \'loud\'; '
            "set server.log_level in g.toml",
        ),
        (
            {"server": {"tls_cert_file": "c.pem"}},
            "server.tls_key_file: must be given with the other one, got nothing; set server.tls_key_file in g.toml",
        ),
        (
            {"server": {"port": 5, "metrics_port": 5}},
            "server.metrics_port: must differ from server.port, got 5 twice; set server.metrics_port in g.toml",
        ),
        (
            {"classes": {"chat": {"ttft_ms": 500}}},
            "classes.chat.tpot_ms: must be a number above 0 and at most 60000, where best_effort is not true, got "
            "nothing; set classes.chat.tpot_ms in g.toml",
        ),
        (
            {"classes": {"chat": {"ttft_ms": True, "tpot_ms": 1}}},
            "classes.chat.ttft_ms: must be a number above 0 and at most 3600000, got True; "
            "set classes.chat.ttft_ms in g.toml",
        ),
        ({"classes": 5}, "classes: must be tables by name, got 5; write [classes.NAME]"),
        (
            {"classes": {"a b": {"ttft_ms": 1, "tpot_ms": 1}}},
            "classes: must be a name of 1 to 128 letters, digits and . : / @ _ -, got 'a b'; rename it in g.toml",
        ),
        (
            {"classes": CLASSES, "slo": {"default": "caht"}},
            "slo.default in g.toml: no class 'caht'; did you mean 'chat'?",
        ),
        (
            {"slo": {"default": "chat"}},
            "slo.default: must be the name of a class, got 'chat' and there are none; add [classes.chat]",
        ),
        ({"tiers": {"learn": 0}}, 'tiers.learn: must be "auto" or a whole number from 1 to 16, got 0; '
                                  "set tiers.learn in g.toml"),
        ({"tiers": {"learn": 3}}, "tiers.learn_from: must be given with the other one, got nothing: tiers are learned "
                                  "at the start, from journals; name journal files of earlier runs there"),
        ({"tiers": {"learn": 3, "learn_from": ["j"], "tpots_ms": [20]}},
         "tiers.tpots_ms: and tiers.learn exclude each other, got both; "
                                                    "leave one out"),
        (
            {"tiers": {"tpots_ms": []}},
            "tiers.tpots_ms: must be a list, each a number above 0 and at most 60000, got []; "
            "set tiers.tpots_ms in g.toml",
        ),
        (
            {"tiers": {"tpots_ms": [30, 50]}, "classes": CLASSES},
            "classes.voice.tpot_ms: must be at least the tightest of tiers.tpots_ms, 30, got 20; "
            "add a tier of 20 or less",
        ),
        (
            {"keys": {"a": {"hash": HASH}, "b": {"hash": HASH}}},
            "keys.b.hash: must be its own, got that of keys.a; make another key",
        ),
        (
            {"classes": CLASSES, "keys": {"a": {"hash": HASH, "classes": ["vioce"]}}},
            "keys.a.classes in g.toml: no class 'vioce'; did you mean 'voice'?",
        ),
        (
            {"classes": CLASSES, "keys": {"a": {"hash": HASH, "classes": ["voice"]}}},
            "keys.a.default: must be one of its classes (voice), got 'chat'; set keys.a.default in g.toml",
        ),
        ({"models": {}}, "models: must be a list of tables, got {}; write [[models]]"),
        ({"models": []}, "models: there must be an instance, got none; add [[models.endpoints]], instances_file or "
                         "--worker-urls"),
        (
            {"models": [{"name": "a"}, {"name": "a"}], "instances_file": "i.json"},
            "models: each name may be given once, got 'a' 2 times; put them into one",
        ),
        (
            {"models": [{"name": "a"}, {}], "instances_file": "i.json"},
            'models: one of several must have a name of its own, got "*"; name it in g.toml',
        ),
        (
            {"models": [{"endpoints": [{"url": "http://a:1/v1"}]}]},
            "models[0].endpoints[0].url: must have no path, got 'http://a:1/v1'; write http://a:1",
        ),
        (
            {"models": [{"endpoints": [{"url": "http://a:99999"}]}]},
            "models[0].endpoints[0].url: must be a URL such as http://10.0.0.1:8000, got 'http://a:99999'; "
            "set models[0].endpoints[0].url in g.toml",
        ),
        (
            {"models": [{"endpoints": [{"url": "http://a:1"}, {"url": "http://a:1/"}]}]},
            "models[0].endpoints[1].url: must be its own, got that of models[0].endpoints[0]; leave one out",
        ),
        (
            {"models": [{"endpoints": [{"url": "http://a:1", "role": "decode"}]}]},
            'models[0].endpoints[0].role: is for mode "pd", got \'decode\' in mode "co"; set mode = "pd"',
        ),
        (
            {"models": [{"mode": "pd", "endpoints": [{"url": "http://a:1"}]}]},
            "models[0].endpoints: mode pd needs two instances, got one; add one",
        ),
        (
            {"models": [{"mode": "pd", "endpoints": [{"url": f"http://a:{n}", "role": "decode"} for n in (1, 2)]}]},
            'models[0].endpoints: mode pd needs an instance to prefill, got none; add one with role = "prefill"',
        ),
        (
            {
                "models": [
                    {"mode": "pd", "shadow": "lmetric", "endpoints": [{"url": f"http://a:{n}"} for n in (1, 2)]}
                ]
            },
            'models[0].shadow: is for mode "co", got \'lmetric\' in mode "pd"; leave it out',
        ),
        (
            {"models": [{"endpoints": [{"url": "http://a:1", "labels": {"a": 1}}]}]},
            "models[0].endpoints[0].labels: must be a table of texts, got {'a': 1}; "
            "set models[0].endpoints[0].labels in g.toml",
        ),
    ],
)  # fmt: skip
def test_a_mistake_says_what_got_allowed_and_remedy(table: dict[str, Any], message: str) -> None:
    """Each names the key, what was found, what may stand there, and what to do."""
    assert mistakes(table) == (message,)


def test_all_mistakes_are_told_at_once() -> None:
    """Mistakes in one table don't hide those in another, nor those between sound tables."""
    table = {
        "server": {"port": "x", "hots": "y"},
        "classes": CLASSES,
        "slo": {"default": "none"},
        "keys": {"a": {"hash": "plain"}},
        "tiers": {"tpots_ms": [-1]},
        "health": {"interval_s": "often"},
    }
    found = mistakes(table)
    assert [line.split(":")[0] for line in found] == [
        "g.toml, [server]", "server.port", "tiers.tpots_ms", "keys.a.hash", "health.interval_s", "slo.default in g.toml"
    ]  # fmt: skip


def test_the_one_line_of_many_mistakes_says_how_to_see_all() -> None:
    """As an exception it is the first mistake, how many more there are and how to list them."""
    with pytest.raises(MistakenConfigError) as caught:
        parse_config({"server": {"a": 1, "b": 2}, "models": []}, "g.toml")
    assert str(caught.value).endswith("(and 2 more: `polyslo check g.toml` lists all)")


def test_a_key_in_the_place_of_its_hash_is_not_repeated() -> None:
    """Who pastes the secret itself must not find it in a log."""
    (message,) = mistakes({"keys": {"a": {"hash": "polyslo-very-secret"}}})
    assert "secret" not in message
    assert "got a text of 19 characters (not shown)" in message


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is absent, no TOML or no text is named."""
    with pytest.raises(ConfigError, match=r"absent.toml: can't be read, No such file or directory; check the path"):
        load_config(str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    for content in (b"[server", b"\xff\xfe", b"a = " + b"1" * 5000, b"a = " + b"[" * 5000):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken.toml: not TOML, "):
            load_config(str(broken))


def test_flags_override_the_file() -> None:
    """A flag wins over the file's key, and the file's other keys stay."""
    table = SERVED | {"server": {"port": 1, "host": "10.0.0.9"}, "keys": {"a": {"hash": HASH}}}
    flags = {"port": 2, "queue_timeout_secs": 7, "cb_failure_threshold": 9, "api_key": "k" * 30, "log_level": None}
    config = parse_config(table, "g.toml", flags)
    assert (config.server.host, config.server.port, config.server.queue_timeout_s) == ("10.0.0.9", 2, 7.0)
    assert config.health.failure_threshold == 9
    assert [key.name for key in config.keys] == ["a", "command-line"]
    assert config.keys[1].hash == hash_of(b"k" * 30)
    assert table["server"]["port"] == 1


def test_prefill_and_decode_urls_make_a_disaggregated_model() -> None:
    """--prefill and --decode give roles and mode; --worker-urls replaces the file's instances."""
    config = parse_config({}, "g.toml", {"prefill": ("http://p:1",), "decode": ("http://d:1", "http://d:2")})
    assert config.models[0].mode == "pd"
    assert [endpoint.role for endpoint in config.models[0].endpoints] == ["prefill", "decode", "decode"]
    config = parse_config(SERVED, "g.toml", {"worker_urls": ("http://z:1",), "policy": "minimal"})
    assert [endpoint.url for endpoint in config.models[0].endpoints] == ["http://z:1"]
    assert config.models[0].policy == "minimal"


def test_a_wrong_flag_is_named_as_a_flag() -> None:
    """The complaint is about what was typed, not about a file that is right."""
    assert mistakes({}, {"port": -1}) == ("--port: must be a whole number from 0 to 65535, got -1; set --port",)
    assert mistakes({}, {"worker_urls": ("a:1",)}) == (
        "--worker-urls: must be a URL such as http://10.0.0.1:8000, got 'a:1'; set --worker-urls",
    )
    models = {"models": [{"name": name, "endpoints": [{"url": f"http://{name}:1"}]} for name in "ab"]}
    assert mistakes(models, {"policy": "minimal"}) == ("--policy: for one model, the file has 2; set it in the file",)
    with pytest.raises(KeyError):
        parse_config(SERVED, "g.toml", {"prot": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TABLES = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.dictionaries(st.sampled_from(["port", "default", "hash", "x", "url", "tpots_ms"]), JSON)
        for name in ("server", "slo", "classes", "tiers", "keys", "models", "health", "journal", "instances_file")
    },
)


@given(TABLES)
def test_whatever_a_file_holds_is_read_or_complained_of(table: dict[str, Any]) -> None:
    """No content of any shape makes anything but a configuration or a list of mistakes."""
    try:
        config = parse_config(table, "g.toml", {"worker_urls": ("http://a:1",)})
    except MistakenConfigError:
        return
    assert config.tiers_s
    assert config.default_class
