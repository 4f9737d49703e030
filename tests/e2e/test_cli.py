"""The command `gateway`, as its users run it: what it prints, where, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.harness import ROOT, DemoModel, Gateway, gateway_command, served
from tests.ports import free_port

ROUTES = """
gateway: {https: "127.0.0.1:0", admin: "127.0.0.1:0", workers: 1}
models:
  iris:
    auth: [key]
    limits: [{rate: 100/minute, per: key}]
    path: {strip_prefix: /inner}
    default_version: v1
    versions:
      v1: {endpoints: [http://127.0.0.1:9001]}
      v2: {endpoints: [http://127.0.0.1:9002], served_as: {model: iris-two}}
  org/llama:
    auth: []
    aliases: [gpt]
    match: [{host: llama.example.com}]
    versions:
      fp8: {endpoints: [http://127.0.0.1:9003], served_as: {model: llama-8}}
"""

WRONG = """
gateway: {https: "127.0.0.1:0", workers: many}
modles: {}
models:
  iris:
    limits: [{rate: 100/fortnight}]
    default_version: v9
    versions:
      v1: {endpoints: [ftp://nowhere]}
    plugins: [{use: plugins.nowhere.Nothing}]
"""


@dataclass
class Done:
    code: int
    out: str
    err: str


def run(*arguments: str, folder: Path) -> Done:
    """A command in this process: what it does needs no other, and starting one takes most of a second."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    finally:
        os.chdir(before)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def run_process(*arguments: str, folder: Path) -> Done:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        gateway_command(*arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    return tmp_path


# --- check ---


def test_check_says_that_all_is_well(folder: Path) -> None:
    done = run("check", folder=folder)
    assert (done.code, done.out) == (0, "routes.yaml: ok: 2 models, 3 endpoints\n")


def test_check_says_everything_that_is_wrong_at_once_each_with_its_line(folder: Path) -> None:
    (folder / "routes.yaml").write_text(WRONG)
    done = run("check", folder=folder)
    assert done.code == 1
    lines = done.err.splitlines()
    for place, words in (
        ("routes.yaml:2: gateway.workers", "many"),
        ("routes.yaml:3: modles", 'did you mean "models"'),
        ("routes.yaml:6: models.iris.limits[0].rate", "fortnight"),
        ("routes.yaml:9: models.iris.versions.v1.endpoints[0]", "ftp://nowhere"),
    ):
        assert any(line.startswith(place) and words in line for line in lines), (place, lines)


def test_check_says_what_is_wrong_with_what_the_file_refers_to(folder: Path) -> None:
    text = ROUTES.replace("    auth: []", "    auth: []\n    plugins: [{use: plugins.nowhere.Nothing}]")
    (folder / "routes.yaml").write_text(text)
    done = run("check", folder=folder)
    assert done.code == 1
    assert "models.org/llama.plugins[0]" in done.err or 'models["org/llama"].plugins[0]' in done.err
    assert "plugins.nowhere" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [("models: [", "routes.yaml:"), ("\tmodels: {}", "tab"), ("a: &a [*a]", "routes.yaml"), ("[]", "mapping")],
)
def test_check_survives_a_file_that_is_no_configuration(folder: Path, text: str, words: str) -> None:
    (folder / "routes.yaml").write_text(text)
    done = run("check", folder=folder)
    assert done.code == 1
    assert words in done.err


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    for command in (["check"], ["explain", "GET", "/x"]):
        done = run(*command, folder=tmp_path)
        assert done.code == 1
        assert len(done.err.splitlines()) == 1
        assert "routes.yaml" in done.err


# --- explain ---


def explain(folder: Path, *arguments: str) -> dict[str, str]:
    done = run("explain", *arguments, folder=folder)
    assert done.code == 0, done.err + done.out
    pairs = [line.split(maxsplit=1) for line in done.out.splitlines()]
    return {pair[0]: pair[1] for pair in pairs}  # of several with one name, the last


def test_explain_tells_where_a_request_would_go_and_why(folder: Path) -> None:
    found = explain(folder, "GET", "/models/iris/inner/x?y=1")
    assert found["route"].startswith("iris ")
    assert found["auth"] == "key"
    assert found["limit"].startswith("100/minute per key")
    assert found["version"].startswith("v1 ")
    assert "default" in found["version"]
    assert found["path"].startswith("/x ")
    assert found["endpoint"].startswith("http://127.0.0.1:9001 ")


def test_explain_knows_bodies_headers_hosts_and_aliases(folder: Path) -> None:
    body = explain(folder, "POST", "/v1/chat/completions", "-d", '{"model": "gpt@fp8"}')
    assert body["route"].startswith("org/llama ")
    assert "llama-8" in body["body"]
    header = explain(folder, "GET", "/v2/models/iris/infer", "-H", "x-model-version: v2")
    assert header["version"].startswith("v2 ")
    assert header["path"].startswith("/v2/models/iris-two/infer ")
    host = explain(folder, "GET", "https://llama.example.com/any")
    assert host["route"].startswith("org/llama ")


def test_explain_knows_limits_of_any_kind_tiers_and_policies_that_read_prompts_or_bodies(folder: Path) -> None:
    (folder / "routes.yaml").write_text(
        """
        models:
          chat:
            limits: [{in_flight: 3, per: key}, {rate: 1000/minute, unit: tokens}]
            balance: {policy: llm}
            versions:
              llm: {endpoints: [http://127.0.0.1:9001]}
              body: {endpoints: [http://127.0.0.1:9001], balance: {policy: consistent_hash, hash: {body: user}}}
              tiers:
                endpoints: [{url: http://127.0.0.1:9002, tier: 1}, {url: http://127.0.0.1:9001, tier: 0}]
                balance: {policy: priority}
        """
    )
    found = explain(folder, "POST", "/v1/chat/completions", "-d", '{"model": "chat@llm"}')
    assert found["limit"] == "1000/minute of tokens per key"
    assert found["endpoint"] == "http://127.0.0.1:9001  (llm of 1, if all are up and idle)"
    found = explain(folder, "POST", "/v1/chat/completions", "-d", '{"model": "chat@body", "user": "alice"}')
    assert "hashing 'alice'" in found["endpoint"]
    found = explain(folder, "POST", "/v1/chat/completions", "-d", '{"model": "chat@tiers"}')
    assert found["endpoint"].startswith("http://127.0.0.1:9001 ")


def test_explain_says_how_a_request_would_be_refused(folder: Path) -> None:
    done = run("explain", "GET", "/models/nobody/x", folder=folder)
    assert done.code == 1
    assert "404 model_not_found" in done.out
    bad = run("explain", "GET", "/models/iris/x", "-H", "nonsense", folder=folder)
    assert bad.code == 2
    bad = run("explain", "GET", "https://[", folder=folder)
    assert (bad.code, bad.err) == (2, "'https://[' is no target of a request: Invalid IPv6 URL\n")


# --- serve ---


def test_serve_with_a_bad_configuration_ends_with_clear_lines(folder: Path) -> None:
    (folder / "routes.yaml").write_text("modles: {}\n")
    done = run_process("serve", folder=folder)
    assert done.code == 1
    assert done.err == 'routes.yaml:1: modles: unknown key; did you mean "models"?\n'


def test_serve_on_a_port_that_is_taken_ends_with_one_clear_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for key in ("https", "admin"):
            other = {"https": free_port(), "admin": free_port()} | {key: port}
            text = ROUTES.replace('https: "127.0.0.1:0"', f'https: "127.0.0.1:{other["https"]}"')
            text = text.replace('admin: "127.0.0.1:0"', f'admin: "127.0.0.1:{other["admin"]}"')
            (folder / "routes.yaml").write_text(text)
            done = run_process("serve", folder=folder)
            assert done.code == 1
            last = done.err.splitlines()[-1]
            assert f"127.0.0.1:{port}" in last
            assert "in use" in last


@pytest.fixture(scope="module")
def model() -> Iterator[DemoModel]:
    with DemoModel() as model:
        yield model


def test_serve_ends_cleanly_by_either_signal_and_leaves_nobody_behind(model: DemoModel) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Gateway({"demo": served([model.url])}) as gateway:
            with gateway.client() as client:
                assert client.get("/models/demo/v1/models").status_code == 200
            assert gateway.stop(number) == 0
            assert "Traceback" not in gateway.output
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", gateway.port)):
                pass


def test_status_tells_of_a_running_gateway_and_says_so_when_there_is_none(model: DemoModel) -> None:
    with Gateway({"demo": served([model.url])}) as gateway:
        with gateway.client() as client:
            client.get("/models/demo/v1/models")
        shown = run("status", folder=gateway.folder)
        assert shown.code == 0, shown.err
        assert "demo" in shown.out
        assert model.url in shown.out
    gone = run("status", folder=gateway.folder)
    assert gone.code == 1
    assert len(gone.err.splitlines()) == 1


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path).out
    for command in ("serve", "check", "explain", "keys", "certs", "status", "reload", "drain", "demo-model"):
        assert command in shown
    assert run("nonsense", folder=tmp_path).code == 2


def test_a_folder_without_certificates_gets_a_development_one_and_says_how_to_trust_it(folder: Path) -> None:
    text = ROUTES.replace('"127.0.0.1:0"', f'"127.0.0.1:{free_port()}"', 1)
    text = text.replace('admin: "127.0.0.1:0"', f'admin: "127.0.0.1:{free_port()}"')
    (folder / "routes.yaml").write_text(text)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        gateway_command("serve"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "serving 2 models" in line:
                break
        assert "curl --cacert" in said or "ca.crt" in said
        assert (folder / "certs" / "dev-ca" / "ca.crt").exists()
        assert (folder / ".gateway").stat().st_mode & 0o077 == 0
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stderr.close()


def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback() -> None:
    code = """
import runpy, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "gateway.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
runpy.run_module("gateway", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
