"""`gateway keys` as people and scripts use it."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.keys import keys
from gateway.control.keys import load_keys
from gateway.stores.keys import is_well_formed

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_KEYS_PEPPER", raising=False)
    return tmp_path


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(keys, arguments, input=stdin)
    assert result.exit_code == code, result.output
    return result


def create(name: str = "alice", *more: str) -> str:
    return run("create", "--name", name, "--models", "iris", *more).stdout.strip()


def owner(secret: str, path: str = "keys.yaml") -> str | None:
    principal = load_keys(Path(path)).find(secret.encode(), time.time())
    return principal.name if principal else None


def test_create_prints_the_key_and_nothing_else_to_standard_output() -> None:
    result = run("create", "--name", "alice", "--models", "iris", "--models", "llama@fp8", "--expires", "90d")
    assert is_well_formed(result.stdout.removesuffix("\n").encode())
    assert "for iris llama@fp8, until " in result.stderr
    assert owner(result.stdout.strip()) == "alice"


def test_a_glob_that_no_model_fits_is_told_and_the_key_made(folder: Path) -> None:
    (folder / "routes.yaml").write_text(
        "models: {org/llama-8b: {aliases: [llama], versions: {fp8: {endpoints: [http://127.0.0.1:1]}}}}\n"
    )
    globs = ["llama", "org/*@fp9", "org/*", "*@fp8"]
    result = run("create", "--name", "alice", *(word for glob in globs for word in ("--models", glob)))
    assert [line.split("'")[1] for line in result.stderr.splitlines() if line.startswith("note: ")] == globs[:2]
    assert owner(result.stdout.strip()) == "alice"


def test_list_shows_states_and_never_a_secret(folder: Path) -> None:
    secrets = [create("alice"), create("bob", "--expires", "90d"), create("carol", "--expires", "0s")]
    run("revoke", "alice")
    run("rotate", "bob")
    heading, *rows = run("list").stdout.splitlines()
    assert heading.split() == ["ID", "NAME", "MODELS", "CREATED", "EXPIRES", "STATE"]
    assert [(row.split()[1], row.split()[-1]) for row in rows] == [
        ("alice", "revoked"),
        ("bob", "rotating"),
        ("carol", "expired"),
    ]
    shown = run("list").output + run("list", "--json").output + run("show", "bob").output
    hashes = [
        json.loads(line[2:])["hash"] for line in (folder / "keys.yaml").read_text().splitlines() if line[0] == "-"
    ]
    assert not any(secret[14:] in shown for secret in secrets)
    assert not any(digest in shown for digest in hashes)


def test_list_does_not_cut_names_off_where_nobody_reads_along() -> None:
    name = "a name as long as a line of a terminal is wide, and then some more of it " * 2
    run("create", "--name", name.strip(), "--models", "meta-llama/*")
    assert name.strip() in run("list").stdout


def test_list_without_a_file_is_empty() -> None:
    assert len(run("list").stdout.splitlines()) == 1
    assert run("list", "--json").stdout == ""


def test_list_as_json_is_one_object_to_a_line() -> None:
    create("alice", "--owner", "team a")
    (line,) = run("list", "--json").stdout.splitlines()
    entry = json.loads(line)
    assert (entry["name"], entry["owner"], entry["models"], entry["state"]) == ("alice", "team a", ["iris"], "active")


def test_show_finds_by_id_and_by_name() -> None:
    identity = create().split("_")[1]
    assert run("show", identity).stdout == run("show", "alice").stdout
    assert json.loads(run("show", "alice").stdout)["id"] == identity


def test_a_revoked_key_opens_nothing() -> None:
    secret = create()
    assert "is revoked" in run("revoke", "alice").stderr
    assert owner(secret) is None


def test_rotate_prints_the_new_key_and_keeps_the_old_for_its_grace() -> None:
    old = create()
    new = run("rotate", "alice", "--grace", "24h").stdout.strip()
    assert (owner(old), owner(new)) == ("alice", "alice")
    last = run("rotate", "alice", "--grace", "0s").stdout.strip()
    assert (owner(new), owner(last)) == (None, "alice")


def test_import_takes_all_lines_or_none() -> None:
    good = json.dumps({"name": "alice", "key": "sk-0123456789abcdefghij", "models": ["*"], "expires": "90d"})
    bad = json.dumps({"name": "bob", "key": "short", "models": ["*"]})
    result = run("import", stdin=f"{good}\n\n{bad}\n", code=1)
    assert "line 3: a key has 20 to 256 characters" in result.stderr
    assert not Path("keys.yaml").exists()
    Path("old.jsonl").write_text(good)
    assert run("import", "old.jsonl").stdout.endswith("\talice\n")
    assert owner("sk-0123456789abcdefghij") == "alice"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"name": "x"}',
        '{"name": "x", "key": "sk-SECRET-0123456789abc", "models": ["*"], "expires": "soon"}',
    ],
)
def test_import_says_which_line_is_wrong_and_not_what_its_key_is(line: str) -> None:
    result = run("import", stdin=line, code=1)
    assert result.stderr.startswith("error: line 1: ")
    assert "SECRET" not in result.output


def test_the_key_file_is_the_configurations() -> None:
    Path("conf").mkdir()
    Path("conf/routes.yaml").write_text("auth: {keys: ../elsewhere.yaml}\nmodels: {this: is, not: valid}\n")
    secret = run("create", "--name", "a", "--models", "*", "--config", "conf/routes.yaml").stdout.strip()
    assert owner(secret, "elsewhere.yaml") == "a"
    Path("routes.yaml").write_text("models: {}\n")
    assert owner(create("b")) == "b"
    assert owner(run("create", "--name", "c", "--models", "*", "-f", "third.yaml").stdout.strip(), "third.yaml") == "c"


REFUSED: dict[str, tuple[list[str], str]] = {
    "name taken": (["create", "--name", "alice", "--models", "x"], "has the name 'alice' already"),
    "nobody": (["revoke", "nobody"], "no key has the id or name 'nobody'"),
    "empty model": (["create", "--name", "bob", "--models", ""], "length >= 1"),
    "no folder": (["create", "--name", "bob", "--models", "x", "-f", "no/where.yaml"], "No such file or directory"),
    "folder": (["list", "-f", "."], "Is a directory"),
    "no source": (["import", "missing.jsonl"], "missing.jsonl: No such file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_of_error_and_changes_nothing(name: str, folder: Path) -> None:
    create()
    before = (folder / "keys.yaml").read_bytes()
    arguments, said = REFUSED[name]
    result = run(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert (folder / "keys.yaml").read_bytes() == before


@pytest.mark.parametrize("expires", ["soon", "-1d", ""])
def test_a_duration_that_is_none_is_explained(expires: str) -> None:
    assert "is not a duration" in run("create", "--name", "a", "--models", "*", "--expires", expires, code=2).stderr


def test_a_model_must_be_named() -> None:
    assert "--models" in run("create", "--name", "a", code=2).stderr


def test_a_broken_key_file_is_reported_by_line() -> None:
    create()
    path = Path("keys.yaml")
    path.write_text(path.read_text() + "- broken\n")
    for command in (["list"], ["show", "alice"], ["revoke", "alice"], ["create", "--name", "b", "--models", "*"]):
        assert "keys.yaml:7: " in run(*command, code=1).stderr


def test_a_key_may_have_limits_methods_and_metadata_of_its_own() -> None:
    more = [
        "--limit",
        "100/minute",
        "--token-limit",
        "9/hour",
        "--in-flight",
        "2",
        "--method",
        "get",
        "--metadata",
        "a=b=c",
    ]
    secret = create("alice", *more)
    found = load_keys(Path("keys.yaml")).find(secret.encode(), time.time())
    assert found is not None
    assert (found.methods, dict(found.claims)) == (("GET",), {"a": "b=c"})
    assert [(each.rate, each.unit, each.in_flight) for each in found.limits] == [
        ("100/minute", "requests", None), ("9/hour", "tokens", None), (None, "requests", 2),
    ]  # fmt: skip
    shown = json.loads(run("show", "alice").stdout)
    assert shown["limits"] == [{"rate": "100/minute"}, {"rate": "9/hour", "unit": "tokens"}, {"in_flight": 2}]
    rotated = run("rotate", "alice").stdout.strip()
    again = load_keys(Path("keys.yaml")).find(rotated.encode(), time.time())
    assert again is not None
    assert (again.limits, again.methods) == (found.limits, found.methods)


@pytest.mark.parametrize(
    ("more", "code"),
    [(["--limit", "many"], 1), (["--in-flight", "0"], 2), (["--metadata", "a"], 2), (["--method", "GE T"], 1)],
)
def test_what_is_no_limit_method_or_metadata_is_refused_and_changes_nothing(
    more: list[str], code: int, folder: Path
) -> None:
    run("create", "--name", "alice", "--models", "iris", *more, code=code)
    assert not (folder / "keys.yaml").exists()


def test_import_takes_limits_too() -> None:
    line = {
        "name": "a",
        "key": "sk-" + "x" * 40,
        "models": ["*"],
        "limits": [{"rate": "5/second"}],
        "methods": ["post"],
    }
    run("import", stdin=json.dumps(line))
    found = load_keys(Path("keys.yaml")).find(line["key"].encode(), time.time())  # type: ignore[attr-defined]
    assert found is not None
    assert (found.limits[0].rate, found.methods) == ("5/second", ("POST",))
