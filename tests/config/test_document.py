"""The notation: what YAML, and the environment, may bring into the file."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import document
from gateway.config.document import MAX_DEPTH
from gateway.config.load import read
from gateway.config.problems import ConfigError, parse_key, render_key
from tests.config.routes_file import MODEL, model, problems_of, settings_of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "routes.yaml: is empty"),
        ("# a comment\n", "routes.yaml: is empty"),
        ("- a\n", "routes.yaml:1: expected a mapping, found a list"),
        ("gateway:\n", "routes.yaml:1: gateway: has no value"),
        ("models: {a: 1\nb: 2}\n", "routes.yaml:2: not YAML: did not find expected ',' or '}'"),
        ("gateway:\n\tworkers: 1\n", "routes.yaml:2: not YAML: found character that cannot start any token (YAML"),
        ("gateway:\n  workers: [${N}]\n", "routes.yaml:2: not YAML: did not find expected ',' or ']' (inside [ ]"),
        ("models: {}\n---\nmodels: {}\n", "routes.yaml:2: not YAML: but found another document"),
        ("models: {}\nx: '\x01'\n", "routes.yaml:2: not YAML: U+0001 is not a printable character"),
        ("models: {}\ntls: !!python/name:os.system {}\n", "routes.yaml:2: tls: the tag !!python/name:os.system is not"),
        ("tls: {certificates: !secret x}\n", "routes.yaml:1: tls.certificates: the tag !secret is not allowed"),
        ("models: {}\n? [a, b]\n: 1\n", "routes.yaml:2: a key must be text"),
        ("models: {}\n<<: 5\n", "routes.yaml:2: <<: merges mappings only"),
        ("models: *nowhere\n", "routes.yaml:1: not YAML: found undefined alias"),
    ],
)
def test_what_is_not_a_mapping_in_plain_yaml_is_refused_at_its_line(text, said):
    assert [problem[: len(said)] for problem in problems_of(text)] == [said]


def test_a_missing_file_and_a_folder_are_problems_and_not_exceptions_of_the_system(tmp_path):
    for path, reason in ((tmp_path / "routes.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_bytes_that_are_not_utf8_are_named_by_their_line(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_bytes(b"models: {}\n# \xff\n")
    with pytest.raises(ConfigError, match=r"routes\.yaml:2: is not UTF-8"):
        read(path)


def test_a_file_of_any_size_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "routes.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match=r"routes\.yaml: is larger than 16 MiB"):
        read(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MODEL.encode())
    assert list(read(path)[0].models) == ["m"]


def test_a_duplicate_key_is_a_problem_that_names_both_lines():
    assert problems_of("gateway:\n  workers: 1\n  workers: 2\n" + MODEL) == [
        "routes.yaml:3: gateway.workers: is there twice, first on line 2"
    ]


def test_anchors_and_merge_keys_work_and_own_keys_win():
    text = """
        models:
          a: &a
            auth: [key]
            methods: [GET]
            versions: {v1: {endpoints: &two [http://127.0.0.1:1, http://127.0.0.1:2]}}
          b:
            <<: *a
            methods: [POST]
          c: {<<: [{methods: [PUT]}, *a], versions: {v1: {endpoints: *two}}}
    """
    models = settings_of(text).models
    assert [models[name].methods for name in "abc"] == [["GET"], ["POST"], ["PUT"]]
    assert [len(models[name].versions["v1"].endpoints) for name in "abc"] == [2, 2, 2]


def test_a_mistake_in_what_is_merged_is_named_where_it_stands():
    text = "models:\n  a: &a\n    methodz: []\n    versions: {v1: {endpoints: [http://h:1]}}\n  b: {<<: *a}\n"
    assert problems_of(text) == [
        'routes.yaml:3: models.a.methodz: unknown key; did you mean "methods"?',
        'routes.yaml:3: models.b.methodz: unknown key; did you mean "methods"?',
    ]


def test_aliases_cannot_blow_the_file_up():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    assert problems_of(bomb)[0].endswith("has more than 1000000 values, aliases included")


def test_merge_keys_cannot_blow_the_file_up():
    keys = ", ".join(f"k{i}: 1" for i in range(1500))
    assert problems_of(f"a: &a {{{keys}}}\nb: {{<<: [{', '.join(['*a'] * 1500)}]}}\n")[0].endswith("aliases included")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n", "a: &a {<<: *a, b: *a}\n"])
def test_an_alias_to_what_holds_it_is_refused(text):
    assert problems_of(text) == [f"routes.yaml:1: nested deeper than {MAX_DEPTH}"]


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "a:\n" + " - - - - - -\n" * 3])
def test_depth_is_bounded_before_it_can_overrun_the_stack(text):
    assert len(problems_of(text)) == 1


def test_a_value_is_what_its_key_says_and_not_what_it_looks_like():
    text = model(
        """
        headers: {request: {set: {x-a: 42, x-b: on, x-c: 12:30, x-d: 2026-01-01, x-e: "0x10", x-f: 1.10}}}
        default_version: 1.10
        """
    ).replace("v1:", "1.10:")
    settings = settings_of(text).models["m"]
    assert list(settings.headers.request.set.values()) == ["42", "on", "12:30", "2026-01-01", "0x10", "1.10"]
    assert list(settings.versions) == ["1.10"]
    assert {type(value) for value in settings.headers.request.set.values()} == {str}


def test_options_of_plugins_are_what_yaml_makes_of_them():
    options = """{use: a.B, n: 5, f: 2.5, e: 1.5e+3, yes: on, no: False, none: null, t: "5", v: 1.2.3, d: 2026-01-01,
        time: 12:30, hex: 0x1F, big: 1_000, neg: -3, list: [1, {x: true}], zip: 007, s: !!str 5}"""
    plugin = settings_of(f"plugins:\n  - {options}\n").plugins[0]
    assert plugin.use == "a.B"
    assert plugin.options == {
        "n": 5, "f": 2.5, "e": 1500.0, "yes": True, "no": False, "none": None, "t": "5", "v": "1.2.3",
        "d": "2026-01-01", "time": "12:30", "hex": 31, "big": 1000, "neg": -3, "list": [1, {"x": True}], "zip": "007",
        "s": "5",
    }  # fmt: skip
    assert type(plugin.options["v"]) is str


@pytest.fixture(params=["libyaml", "python"])
def _parser(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(document, "_Composer", type("Composer", (document.Bounded, yaml.SafeLoader), {}))


@pytest.mark.usefixtures("_parser")
def test_both_parsers_of_yaml_give_the_same():
    text = "plugins: [{use: a.B, n: 5, t: '5', x: null, y: ~, z: }]\ngateway: {workers: '3', http: null}\n" + MODEL
    settings = settings_of(text)
    assert settings.plugins[0].options == {"n": 5, "t": "5", "x": None, "y": None, "z": None}
    assert (settings.gateway.workers, list(settings.models)) == (3, ["m"])
    assert len(problems_of("[" * 5_000)) == 1
    assert problems_of("gateway:\n  worker: 1\n") == [
        'routes.yaml:2: gateway.worker: unknown key; did you mean "workers"?'
    ]


# --- the environment --------------------------------------------------------------------------------------------------


def test_variables_are_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("NUMBER", "3")
    monkeypatch.setenv("HOST", "10.0.0.1")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    text = """
        gateway:
          workers: ${NUMBER}
          admin: ${UNSET:-127.0.0.1}:${EMPTY:-99}
          http: ${EMPTY}
          access_log: {path: "${EMPTY}"}
        models: {m: {versions: {v1: {endpoints: ["http://${HOST}:1/$${x}"]}}}}
    """
    settings = settings_of(text)
    gateway = settings.gateway
    assert (gateway.workers, gateway.admin, gateway.http) == (3, ("127.0.0.1", 99), None)
    assert gateway.access_log.path == ""
    assert settings.models["m"].versions["v1"].endpoints[0].url == "http://10.0.0.1:1/${x}"


def test_a_variable_that_is_not_set_is_a_problem_and_hides_no_other(monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    text = """\
        gateway:
          workers: ${UNSET}
          state_dir: "${not a name}"
        auth:
          jwt:
            - {issuer: i, jwks_url: "https://${UNSET}/"}
        models:
          m: {defaultversion: v1, versions: {v1: {endpoints: ["${UNSET}"]}}}
    """
    assert problems_of(text) == [
        "routes.yaml:2: gateway.workers: the environment variable UNSET is not set, and has no default",
        'routes.yaml:3: gateway.state_dir: "${" begins neither ${NAME} nor ${NAME:-default}; write $${ for the '
        "characters themselves",
        "routes.yaml:6: auth.jwt[0].jwks_url: the environment variable UNSET is not set, and has no default",
        'routes.yaml:8: models.m.defaultversion: unknown key; did you mean "default_version"?',
        "routes.yaml:8: models.m.versions.v1.endpoints[0]: the environment variable UNSET is not set, and has no "
        "default",
    ]


def test_a_rule_is_not_broken_by_what_a_variable_would_have_been(monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    versions = "{v: {endpoints: [http://h], weight: '${UNSET}'}, w: {endpoints: [http://h], weight: 0}}"
    assert problems_of(f"models:\n  m: {{versions: {versions}}}\n") == [
        "routes.yaml:2: models.m.versions.v.weight: the environment variable UNSET is not set, and has no default"
    ]


def test_what_a_variable_holds_is_one_value(monkeypatch):
    monkeypatch.setenv("SLY", "x, admin: 0.0.0.0:1")
    assert settings_of("tls: {certificates: '${SLY}'}\n").gateway.admin == ("127.0.0.1", 9901)
    assert settings_of("tls:\n  certificates: ${SLY}\n").tls.certificates.name == "x, admin: 0.0.0.0:1"


def test_a_dollar_alone_is_a_dollar():
    text = model("path: {regex: {pattern: '^/a(.*)$', replace: '/$b'}}")
    assert settings_of(text).models["m"].path.regex.replace == "/$b"


# --- keys -------------------------------------------------------------------------------------------------------------

steps = st.one_of(st.integers(0, 10_000), st.text(min_size=1))


@given(st.lists(steps, max_size=6))
def test_a_key_that_is_written_can_be_read_back(path):
    assert parse_key(render_key(tuple(path))) == tuple(path)
