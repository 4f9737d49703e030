"""`gateway check`."""

import pytest

from gateway.cli.check import check
from gateway.config.problems import ConfigError, Problem
from gateway.control.reload import prepare
from gateway.preflight import EVERYTHING, WARNINGS
from tests.config.routes_file import MODEL, ROOT
from tests.edge.auth_makers import ec_key, pem
from tests.tls.makers import make


def written(folder, text):
    path = folder / "routes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_summed_up_in_one_line(tmp_path, capsys):
    path = written(tmp_path, "models:\n  a: {versions: {v: {endpoints: [http://h, http://i]}, w: {endpoints: [http://h],"
                             " weight: 1}}}\n  b: {versions: {v: {endpoints: [http://h]}}}\n")  # fmt: skip
    assert check(path) == 0
    assert capsys.readouterr() == (f"{path}: ok: 2 models, 4 endpoints\n", "")


def test_one_is_not_many(tmp_path, capsys):
    path = written(tmp_path, MODEL)
    check(path)
    assert capsys.readouterr().out == f"{path}: ok: 1 model, 1 endpoint\n"


def test_every_problem_is_a_line_on_standard_error(tmp_path, capsys):
    path = written(tmp_path, "gateway: {worker: 1}\ntls: {min_version: 1.1}\n")
    assert check(path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f'{path}:1: gateway.worker: unknown key; did you mean "workers"?',
        f"{path}:2: tls.min_version: '1.1' is none of 1.2, 1.3",
    ]


def test_warnings_are_printed_and_refuse_nothing(tmp_path, capsys):
    path = written(tmp_path, "models:\n  m:\n    auth: []\n    versions: {v1: {endpoints: [http://h]}}\n")
    assert check(path) == 0
    out, err = capsys.readouterr()
    assert err == f"{path}:3: warning: models.m.auth: model 'm' is public: anyone may call it\n"
    assert out == f"{path}: ok: 1 model, 1 endpoint\n"


def test_what_other_parts_find_is_reported_at_the_line_of_its_key(tmp_path, capsys):
    path = written(tmp_path, "plugins:\n  - use: a.B\n  - use: no.Such\n" + MODEL)

    def plugins(settings):
        yield Problem("", 0, "plugins[1]", f"cannot import {settings.plugins[1].use}")

    def keys(_settings):
        return [Problem("keys.yaml", 7, "", "is not a key")]

    assert check(path, [plugins, keys]) == 1
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        [f"{path}:3: plugins[1]: cannot import no.Such", "keys.yaml:7: is not a key"]
    )


def test_the_command_looks_at_all_that_the_file_refers_to(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GATEWAY_ADMIN_TOKEN", raising=False)
    path = written(tmp_path, "gateway:\n  admin: 0.0.0.0:9901\nplugins:\n  - {use: no.Such}\n" + MODEL)
    (tmp_path / "keys.yaml").write_text("nonsense: 1\n", encoding="utf-8")
    assert check(path, EVERYTHING) == 1
    places = sorted(":".join(line.split(": ")[:2]) for line in capsys.readouterr().err.splitlines())
    assert [place.removeprefix(f"{tmp_path}/").partition("Object")[0] for place in places] == [
        "keys.yaml:1:",
        "routes.yaml:2:gateway.admin",
        "routes.yaml:4:plugins[0]",
    ]


def test_an_admin_token_opens_the_operators_door_to_the_network(tmp_path, monkeypatch):
    path = written(tmp_path, "gateway: {admin: 0.0.0.0:9901, admin_token_file: token}\n" + MODEL)
    monkeypatch.delenv("GATEWAY_ADMIN_TOKEN", raising=False)
    assert check(path, EVERYTHING) == 1, "the file of the token is not there"
    (tmp_path / "token").write_text("0123456789abcdef\n", encoding="utf-8")
    assert check(path, EVERYTHING) == 0


def test_other_parts_are_not_asked_about_a_file_that_is_wrong(tmp_path):
    asked = []
    assert check(written(tmp_path, "x: 1\n"), [lambda settings: asked.append(settings) or []]) == 1
    assert asked == []


def test_a_file_that_is_not_there_is_a_problem(tmp_path, capsys):
    assert check(tmp_path / "routes.yaml") == 1
    assert capsys.readouterr().err == f"{tmp_path}/routes.yaml: cannot be read: No such file or directory\n"


def test_the_file_of_the_repository_is_right(capsys):
    assert check(ROOT / "routes.yaml") == 0
    out, err = capsys.readouterr()
    assert (out.rpartition("/")[2], err) == ("routes.yaml: ok: 1 model, 2 endpoints\n", "")


@pytest.mark.parametrize("key", ["public_key_file", "jwks_file"])
def test_an_issuers_file_that_is_not_there_is_named_with_its_line(key, tmp_path, capsys):
    text = f"auth:\n  jwt:\n    - issuer: a\n      algorithms: [ES256]\n      {key}: missing.pem\n"
    path = written(tmp_path, text + MODEL)
    assert check(path, EVERYTHING) == 1
    assert f"{path}:5: auth.jwt[0].{key}: {tmp_path}/missing.pem: " in capsys.readouterr().err


def test_a_start_refuses_an_issuers_file_that_cannot_be_used_and_a_reload_keeps_what_it_had(tmp_path):
    text = "auth: {jwt: [{issuer: a, algorithms: [ES256], public_key_file: a.pem}]}\n"
    path = written(tmp_path, text + MODEL)
    with pytest.raises(ConfigError, match=r"routes.yaml:1: auth.jwt\[0\].public_key_file"):
        prepare(path, None)
    (tmp_path / "a.pem").write_bytes(pem(ec_key()))
    published, _ = prepare(path, None)
    assert list(published.jwks) == ["a"]
    (tmp_path / "a.pem").write_bytes(b"broken")
    again, _ = prepare(path, published)
    assert again.jwks == published.jwks, "an issuer in trouble holds up no other change"
    written(tmp_path, text.replace("a.pem", "b.pem") + MODEL)
    with pytest.raises(ConfigError, match=r"b\.pem"):
        prepare(path, published)


def test_certificates_that_are_served_and_not_as_they_should_be_are_warned_of(tmp_path, capsys):
    certs = tmp_path / "certs"
    certs.mkdir()
    make("a.test", start=-90, days=80).write(certs, "old")
    make("b.test", issuer_url="http://ca.test/issuer.der").write(certs, "short")
    path = written(tmp_path, MODEL)
    assert check(path, EVERYTHING, WARNINGS) == 0
    out, err = capsys.readouterr()
    assert f"{certs}/old.crt: warning: expired 10 days ago" in err
    assert f"{certs}/short.crt: warning: its chain is missing" in err
    assert out == f"{path}: ok: 1 model, 1 endpoint\n"


def test_a_file_of_keys_that_is_not_there_is_warned_of_where_keys_are_taken(tmp_path, capsys):
    path = written(tmp_path, f"auth: {{keys: kyes.yaml}}\n{MODEL}")
    for is_there in (False, True):
        if is_there:
            (tmp_path / "kyes.yaml").write_text("pepper: 0hJFMYuHawMTILEsET8U2dCUQipUei8KIH0b3C5OiyQ\nkeys: []\n")
        assert check(path, EVERYTHING, WARNINGS) == 0
        warned = f"{path}:1: warning: auth.keys: {tmp_path}/kyes.yaml is not there: no key is taken until"
        assert (warned in capsys.readouterr().err) is not is_there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('auth: {keys: "a\\0b"}', "auth.keys: 'a\\x00b' is not a path"),
        ('auth: {htpasswd: "a\\0b"}', "auth.htpasswd: 'a\\x00b' is not a path"),
        ('gateway: {state_dir: "a\\0b"}', "gateway.state_dir: 'a\\x00b' is not a path"),
        ('gateway: {access_log: {path: "a\\0b"}}', "gateway.access_log.path: 'a\\x00b' is not a path"),
        ("gateway: {limits_store: redis://h:99999}", "gateway.limits_store: Port out of range 0-65535"),
        ("tls: {certificates: routes.yaml}", "tls.certificates: {folder}/routes.yaml is no folder"),
    ],
)
def test_what_no_start_could_use_is_one_line_that_names_its_key(tmp_path, capsys, text, said):
    routes = written(tmp_path, f"{text}\n{MODEL}")
    assert check(routes, EVERYTHING, WARNINGS) == 1
    assert capsys.readouterr().err == f"{routes}:1: {said.replace('{folder}', str(tmp_path))}\n"
