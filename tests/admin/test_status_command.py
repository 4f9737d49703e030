"""`gateway status` against a real admin port."""

import json
import platform
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from gateway.admin.app import make_admin
from gateway.admin.view import CertificateView, EndpointView
from gateway.cli.status import status
from gateway.core.endpoint import Health
from tests.admin.gateway_view import Gateway
from tests.ports import free_port

TOKEN = "correct-horse-battery"


@contextmanager
def admin_port(gateway: Gateway, token: str | None = None) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_admin(gateway, address="127.0.0.1", token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def run(capsys: pytest.CaptureFixture[str], **options: object) -> tuple[int, str, str]:
    """-> exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        status(**options)
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


@pytest.fixture(autouse=True)
def _known_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("GATEWAY_ADMIN_TOKEN", raising=False)
    monkeypatch.setattr("gateway.admin.status.own_version", lambda: "1.2.3")


def row_with(out: str, text: str) -> str:
    (line,) = [" ".join(line.split()) for line in out.splitlines() if text in line]
    return line


def test_it_shows_workers_endpoints_buckets_and_certificates(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    for code in (200, 200, 503):
        gateway.serve(0, "iris", "v1", code)
    gateway.serve(1, "iris", "", 401)
    gateway.pids = [101, 0]
    gateway.endpoint_views.append(
        EndpointView(model="[red]odd[/red]", version="v1", url="http://127.0.0.1:9009", health=Health.UP)
    )
    gateway.certificate_views.append(CertificateView(name="old", hosts=["old.example.com"], expires=0.0))
    with admin_port(gateway) as address:
        code, out, _ = run(capsys, admin=address)
    assert code == 0
    assert out.startswith("Gateway 1.2.3 ready\n")
    for fact in ("generation 7", "up 60 minutes", "4 requests", "12 of 65536 token buckets (shared)"):
        assert fact in out.splitlines()[1]
    assert row_with(out, "101") == "0 101 7 4 1 serving"
    assert row_with(out, "not running") == "1 - 7 4 1 not running"
    assert row_with(out, ":9001") == "iris@v1 http://127.0.0.1:9001 up 3 12.5 ms 3 1"
    assert row_with(out, ":9002") == "http://127.0.0.1:9002 down 0 -"
    assert row_with(out, ":9003") == "iris@v2 http://127.0.0.1:9003 checking 0 - 0 0"
    assert row_with(out, ":9009").startswith("[red]odd[/red]@v1 ")
    assert row_with(out, "refused") == "iris, refused 1 0"
    assert row_with(out, "default") == "default gw.example.com 90 valid"
    assert row_with(out, "old.example.com").endswith("expired")


@pytest.mark.parametrize(
    ("is_compiled", "said"), [(True, "hot path compiled"), (False, "hot path not compiled (scripts/compile does)")]
)
def test_it_says_what_the_gateway_runs_on(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_compiled: bool, said: str
) -> None:
    monkeypatch.setattr("gateway.compiled.is_in_use", lambda: is_compiled)
    python = f"{sys.implementation.name} {platform.python_version()}"
    with admin_port(gateway) as address:
        _, out, _ = run(capsys, admin=address)
        _, document, _ = run(capsys, admin=address, json=True)
    assert out.splitlines()[2] == said
    assert out.splitlines()[3].lower() == python
    found = json.loads(document)
    assert (found["is_compiled"], found["python"].lower()) == (is_compiled, python)


def test_it_shows_what_is_known_of_prompts_and_engines(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    with admin_port(gateway) as address:
        assert "Inference" not in run(capsys, admin=address)[1]
        gateway.read_prompts()
        out = run(capsys, admin=address)[1]
    told = [" ".join(line.split()) for line in out.splitlines() if ":9005" in line]
    assert told[-1] == "http://127.0.0.1:9005 700 5 25% 5000 20.0 3 9 50%"


def test_it_fails_and_says_why_when_no_traffic_should_come(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.pids = [0, 0]
    with admin_port(gateway) as address:
        code, out, _ = run(capsys, admin=address)
    assert (code, out.splitlines()[0]) == (1, "Gateway 1.2.3 no worker runs")


def test_json_is_the_whole_document(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    with admin_port(gateway) as address:
        code, out, _ = run(capsys, admin=address, json=True)
    assert code == 0
    assert [model["model"] for model in json.loads(out)["models"]] == ["iris"]


def test_the_configuration_says_where_to_ask_and_with_what_token(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    config = tmp_path / "routes.yaml"
    with admin_port(gateway, TOKEN) as address:
        config.write_text(f"gateway: {{admin: '{address}', admin_token_file: token}}\n")
        code, out, _ = run(capsys, config=config)
    assert (code, out.splitlines()[0]) == (0, "Gateway 1.2.3 ready")


def test_a_missing_token_is_told_in_one_line(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    with admin_port(gateway, TOKEN) as address:
        code, out, err = run(capsys, admin=address)
    assert (code, out) == (1, "")
    assert err == f"{address} wants its admin token: GATEWAY_ADMIN_TOKEN, or gateway.admin_token_file.\n"


def test_a_gateway_that_does_not_run_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, out, err = run(capsys, admin=address)
    assert (code, out) == (1, "")
    assert err == f"The gateway is not running: nothing listens on {address}.\n"


def test_a_configuration_that_cannot_be_read_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, config=tmp_path / "none.yaml")
    assert code == 1
    assert "none.yaml" in err
    assert "--admin host:port" in err


def test_an_answer_that_is_not_a_status_is_told_without_a_traceback(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.app.describe", lambda totals, view: {"models": 1})
    with admin_port(gateway) as address:
        code, out, err = run(capsys, admin=address)
    assert (code, out) == (1, "")
    assert "does not understand" in err
