"""Reading: all problems at once, each at its line; defaults; relative paths; speed."""

import gc
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import _found, load, merged, read
from gateway.config.problems import ConfigError, Problem
from gateway.config.rules import Finding
from tests.config.routes_file import MODEL, model, problems_of, settings_of


def test_every_problem_is_reported_at_once_with_its_line():
    text = """\
        gateway:
          http: 127.0.0.1:8443
          limits_stor: x
          workers: many
        models:
          iris:
            auth: [key, jwt]
            limitz: []
            timeouts: {connect: 5 parsecs}
            default_version: v9
            headers:
              request: {set: {Connection: close}}
            versions:
              v1:
                endpoints:
                  - http://a:1
                  - ftp://x
                  - {url: http://b:1, weight: -1}
              v2: {}
          other:
            aliases: [iris]
            versions: {v1: {endpoints: []}}
    """
    assert problems_of(text) == [
        "routes.yaml:2: gateway.http: listens where https does",
        'routes.yaml:3: gateway.limits_stor: unknown key; did you mean "limits_store"?',
        "routes.yaml:4: gateway.workers: 'many' is neither auto nor a number from 1 to 1024",
        "routes.yaml:7: models.iris.auth: takes JWTs, but auth.jwt names no issuer",
        'routes.yaml:8: models.iris.limitz: unknown key; did you mean "limits"?',
        "routes.yaml:9: models.iris.timeouts.connect: '5 parsecs' is not a duration such as 500ms, 5s, 2m, 1h30m",
        "routes.yaml:10: models.iris.default_version: there is no version 'v9'; there is v1",
        "routes.yaml:12: models.iris.headers.request.set.Connection: 'Connection' is the gateway's own to write: it "
        "belongs to one connection or frames the message",
        "routes.yaml:17: models.iris.versions.v1.endpoints[1].url: 'ftp://x' is not http(s)://host[:port]",
        "routes.yaml:18: models.iris.versions.v1.endpoints[2].weight: '-1' is not greater than 0",
        "routes.yaml:19: models.iris.versions.v2.endpoints: is missing",
        "routes.yaml:21: models.other.aliases[0]: 'iris' leads to model 'iris' already",
        "routes.yaml:22: models.other.versions.v1.endpoints: needs at least one endpoint",
    ]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (model("default_version: v1", "nonsense"), ["models.m.versions.v1.endpoints[0].url"]),
        (
            model("default_version: v2", "nonsense"),
            ["models.m.default_version", "models.m.versions.v1.endpoints[0].url"],
        ),
        ("auth: {jwt: 5}\n" + model("auth: [jwt]"), ["auth.jwt"]),
        ("gateway: {https: x, admin: 127.0.0.1:8443}\n", ["gateway.https"]),
        ("models:\n  m: {default_version: v1, versions: 5}\n", ["models.m.versions"]),
        ("models:\n  m: {default_version: v1, versions: {v1: 5}}\n", ["models.m.versions.v1"]),
        ("models: 5\n", ["models"]),
        (
            "models:\n  a//b:\n    auth: 5\n    match: [{}]\n",
            [f"models.a//b{key}" for key in ("", ".versions", ".auth", ".match[0]")],
        ),
        (
            "models: {m: {versions: {v: {endpoints: [http://h], weight: 0}, w: {endpoints: [http://h], weight: x}}}}",
            ["models.m.versions.w.weight"],
        ),
        ("defaults: {auth: 5}\n" + model("limits: [{rate: 1/second}]"), ["defaults.auth"]),
        (model("limits: [{rate: 1/second}]\nauth: [jwt, x]"), ["models.m.auth[1]"]),
    ],
)
def test_no_problem_is_reported_that_only_follows_from_another(text, keys):
    assert [problem.split(": ")[1] for problem in problems_of(text)] == keys


def test_the_text_of_an_error_is_one_line_for_each_problem(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_text("tlz: {}\nmodelz: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [problem.line for problem in caught.value.problems] == [1, 2]
    assert str(caught.value).split("\n") == [str(problem) for problem in caught.value.problems]


def test_an_unknown_key_far_from_every_known_one_lists_those():
    problem = problems_of("models: {m: {versions: {v1: {endpoints: [http://h:1], xyzzy: 1}}}}\n")[0]
    assert problem.endswith("unknown key; known here: endpoints, weight, served_as, health, balance, upstream_tls")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("auth: key", "auth: expected a list, found 'key'"),
        ("auth: [kee]", "auth[0]: 'kee' is none of key, jwt"),
        ("limits: {rate: 5/second}", "limits: expected a list, found a mapping"),
        ("limits: [5/second]", "limits[0]: expected a mapping, found '5/second'"),
        ("limits: [{burst: 5}]", "limits[0]: a limit has either a `rate` or `in_flight`"),
        ("limits: [{rate: 1/second, in_flight: 5}]", "limits[0]: a limit has either a `rate` or `in_flight`"),
        ("limits: [{in_flight: 5, burst: 5}]", "limits[0]: `burst` and `unit` belong to a `rate`"),
        ("limits: [{rate: 1/year, burst: 100}]", "limits[0]: a bucket of 100 would take more than 50 years"),
        ("limits: [{rate: 5/second, burst: 2.5}]", "limits[0].burst: expected a whole number, found '2.5'"),
        ("limits: [{rate: 5/second, burst: 0}]", "limits[0].burst: '0' is not at least 1"),
        ("retry: {attempts: 11}", "retry.attempts: '11' is not at most 10"),
        ("preserve_host: maybe", "preserve_host: expected true or false, found 'maybe'"),
        ("timeouts:", "timeouts: has no value"),
        ("timeouts: {idle: null}", "timeouts.idle: has no value"),
        ("timeouts: {idle: 0s}", "timeouts.idle: '0s' is not greater than 0"),
        ("health: {interval: 0}", "health.interval: '0' is not greater than 0"),
        ("body_bytes: [1]", "body_bytes: ['1'] is not a size such as 64KiB, 10MiB, 1GiB"),
        ("headers: {request: {set: {x-a: [b]}}}", "headers.request.set.x-a: expected text, found a list"),
        ("balance: {policy: fastest}", "balance.policy: 'fastest' is none of round_robin, random"),
    ],
)
def test_a_wrong_type_is_named_in_the_words_of_the_file(keys, said):
    [problem] = problems_of(model(keys))
    assert problem.startswith(f"routes.yaml:3: models.m.{said}")


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_a_model_lies_over_the_defaults_key_by_key():
    text = """
        defaults:
          auth: [key]
          limits: [{rate: 1/second}, {rate: 9/minute}]
          health: {path: /health, interval: 9s}
          sticky: {ttl: 5m}
          headers: {request: {set: {x-a: "1", x-b: "1"}, remove: [cookie]}}
        models:
          a: {versions: {v1: {endpoints: [http://h:1]}}}
          b:
            limits: [{rate: 2/second}]
            health: {interval: 1s}
            sticky: null
            headers: {request: {set: {x-b: "2"}, remove: []}}
            versions: {v1: {endpoints: [http://h:1]}}
    """
    a, b = settings_of(text).models.values()
    assert ([limit.rate for limit in a.limits], a.sticky.ttl) == (["1/second", "9/minute"], 300.0)
    assert ([limit.rate for limit in b.limits], b.sticky) == (["2/second"], None)
    assert (b.health.path, b.health.interval) == ("/health", 1.0)
    assert (b.headers.request.set, b.headers.request.remove) == ({"x-a": "1", "x-b": "2"}, [])


def test_a_problem_in_the_defaults_is_reported_once_at_their_line():
    text = """\
        defaults:
          health: {intervl: 5s}
          limits: [{rate: sometimes}]
          timeouts: {idle: soon}
        models:
          a: {versions: {v1: {endpoints: [http://h:1]}}}
          b: {health: {path: x}, versions: {v1: {endpoints: [http://h:1]}}}
    """
    assert [problem.partition(": ")[2].partition(": ")[0] for problem in problems_of(text)] == [
        "defaults.health.intervl",
        "defaults.limits[0].rate",
        "defaults.timeouts.idle",
        "models.b.health.path",
    ]
    assert [problem.split(":")[1] for problem in problems_of(text)] == ["2", "3", "4", "7"]


def test_a_list_of_a_model_is_its_own_even_where_the_defaults_have_more():
    text = "defaults:\n  limits: [{rate: 1/second}]\n" + model("limits: [{burst: 5}]")
    assert problems_of(text) == ["routes.yaml:5: models.m.limits[0]: a limit has either a `rate` or `in_flight`"]


def test_defaults_are_checked_even_if_no_model_uses_them():
    assert problems_of("defaults: {versions: {}}\n")[0].startswith("routes.yaml:1: defaults.versions: unknown key")


def test_laying_over_shares_no_mapping_with_what_lies_under():
    under = {"a": {"b": {"c": 1}}, "d": {"e": 2}}
    over = merged(under, {"a": {"b": {"x": 3}}})
    over["a"]["b"]["c"] = over["d"]["e"] = 9
    assert under == {"a": {"b": {"c": 1}}, "d": {"e": 2}}


# --- paths ------------------------------------------------------------------------------------------------------------


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "etc"
    folder.mkdir()
    text = """
        gateway: {state_dir: state, access_log: {path: log/access.log}}
        tls: {certificates: /srv/certs}
        auth: {jwt: [{issuer: i, audience: a, jwks_file: ../keys.json}]}
    """
    settings_of(text, folder)
    monkeypatch.chdir(tmp_path)
    settings = load(Path("etc/routes.yaml"))
    assert settings.gateway.state_dir == folder / "state"
    assert settings.gateway.access_log.path == str(folder / "log/access.log")
    assert settings.tls.certificates == Path("/srv/certs")
    assert settings.auth.keys == folder / "keys.yaml", "a default is anchored too"
    assert settings.auth.jwt[0].jwks_file == folder / "../keys.json"


def test_an_access_log_on_standard_output_or_nowhere_is_no_path():
    assert settings_of("gateway: {access_log: {path: '-'}}\n").gateway.access_log.path == "-"
    assert settings_of("gateway: {access_log: {path: ''}}\n").gateway.access_log.path == ""


def test_the_folder_is_that_of_the_link_and_not_of_its_target(tmp_path):
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data/routes.yaml").write_text(MODEL, encoding="utf-8")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    assert load(tmp_path / "routes.yaml").auth.keys == tmp_path / "keys.yaml"


# --- marks ------------------------------------------------------------------------------------------------------------


def test_marks_find_the_line_of_a_key_or_of_what_is_around_it(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_text(
        "defaults:\n  health:\n    path: /x\nplugins:\n  - use: a.B\n  - use: a.C\nmodels:\n  a.b:\n    methods: []\n"
        "    versions:\n      v1:\n        endpoints: [http://h:1]\n",
        encoding="utf-8",
    )
    marks = read(path)[1]
    assert marks.locate(("plugins", 1, "use")) == marks.locate("plugins[1].use") == 6
    assert marks.locate('models."a.b".methods') == 9
    assert marks.locate('models."a.b".timeouts.idle') == 8
    assert marks.locate('models."a.b".health.path') == 3, "it comes from the defaults"
    assert marks.locate("tls.certificates") == 1


def test_a_problem_of_another_part_gets_the_line_of_its_key(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_text("tls: {certificates: x}\nplugins:\n  - use: a.B\n" + MODEL, encoding="utf-8")
    marks = read(path)[1]
    assert str(marks.complete(Problem("", 0, "plugins[0].use", "no such module"))) == (
        f"{path}:3: plugins[0].use: no such module"
    )
    elsewhere = Problem("keys.yaml", 7, "", "is not a key")
    assert marks.complete(elsewhere) == elsewhere


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_fleet_of_500_models_with_20_endpoints_each_is_read_in_seconds_at_most(tmp_path):
    lines = ["models:"]
    for number in range(500):
        urls = ", ".join(f"http://10.{number % 250}.{number // 250}.{host}:8000" for host in range(20))
        lines.append(f"  model-{number}: {{health: {{path: /x}}, versions: {{v1: {{endpoints: [{urls}]}}}}}}")
    path = tmp_path / "routes.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    began = time.process_time()
    settings = load(path)
    assert time.process_time() - began < 5, "about 0.4 s of a core is usual"
    assert sum(len(model.versions["v1"].endpoints) for model in settings.models.values()) == 10_000


@pytest.mark.parametrize("set_it", [gc.disable, gc.enable])
def test_the_collector_of_garbage_is_left_as_it_was(tmp_path, set_it):
    path = tmp_path / "routes.yaml"
    path.write_text("nonsense: {}\n", encoding="utf-8")
    try:
        set_it()
        with pytest.raises(ConfigError):
            load(path)
        assert gc.isenabled() is (set_it is gc.enable)
    finally:
        gc.enable()


def test_many_mistakes_take_a_time_that_grows_with_their_number_and_not_with_its_square():
    """An endpoint that is none in each of 20,000 models took minutes."""

    def seconds(count: int) -> float:
        broken = [("models", f"m{number}", "versions", "v1", "endpoints") for number in range(count)]
        unused: Any = None
        began = time.process_time()
        found = _found([lambda settings: (Finding(place, "needs one") for place in broken)], unused, unused, broken)
        assert not found
        return time.process_time() - began

    few = min(seconds(200) for _ in range(3))
    assert seconds(4000) < 100 * few  # 20 and a little; by the square 400
