"""What a CA suggests about renewal (RFC 9773), by a directory of our own: Debian 12's Pebble does not speak of it."""

import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import AcmeSettings
from gateway.core.renewal import Suggestion

acme = pytest.importorskip("gateway.tls.acme", reason="the extra `acme` is not installed")

# RFC 9773, 4.1, and the certificate of its appendix A.
EXAMPLE = """-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""
EXAMPLE_ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


class Directory:
    """A CA's, over plain HTTP; `info` is what it answers about a certificate."""

    def __init__(self, info: dict[str, Any] | None, status: int = 200, retry_after: str = "") -> None:
        self.asked: list[str] = []
        directory = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                base = f"http://127.0.0.1:{directory.port}"
                is_directory = self.path == "/dir"
                content = {"newNonce": f"{base}/nonce"} | ({"renewalInfo": f"{base}/info"} if info is not None else {})
                body = json.dumps(content if is_directory else info).encode()
                if not is_directory:
                    directory.asked.append(self.path)
                self.send_response(200 if is_directory else status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                if retry_after:
                    self.send_header("retry-after", retry_after)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def settings(self) -> AcmeSettings:
        return AcmeSettings(domains=["example.com"], directory=f"http://127.0.0.1:{self.port}/dir")


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Iterator[Directory]:
    found = Directory(*request.param)
    yield found
    found.server.shutdown()
    found.server.server_close()


WINDOW = {"suggestedWindow": {"start": "2031-01-02T04:00:00Z", "end": "2031-01-03T04:00:00Z"}}
START = datetime.datetime(2031, 1, 2, 4, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize("directory", [(WINDOW | {"explanationURL": "https://ca/why"}, 200, "21600")], indirect=True)
def test_a_window_is_read_for_the_certificate_that_rfc_9773_has_as_its_example(directory: Directory) -> None:
    found = acme.suggested(directory.settings, EXAMPLE.encode())
    assert directory.asked == [f"/info/{EXAMPLE_ID}"]
    assert found[:2] == (START, START + 86400)
    assert found.ask_again == pytest.approx(21600, abs=60)
    assert found.explanation == "https://ca/why"


@pytest.mark.parametrize("directory", [(WINDOW, 200, "1"), (WINDOW, 200, "9999999")], indirect=True)
def test_a_ca_is_asked_again_neither_every_second_nor_never(directory: Directory) -> None:
    found = acme.suggested(directory.settings, EXAMPLE.encode())
    assert 60 <= found.ask_again <= 86400


@pytest.mark.parametrize("directory", [(None,)], indirect=True)
def test_a_ca_that_knows_nothing_of_it_has_no_wish(directory: Directory) -> None:
    assert acme.suggested(directory.settings, EXAMPLE.encode()) == Suggestion(0.0, 0.0, 21600)
    assert directory.asked == []


BACKWARD = {"suggestedWindow": {"start": "2031-01-03T04:00:00Z", "end": "2031-01-02T04:00:00Z"}}


@pytest.mark.parametrize(
    "directory", [({}, 200), (WINDOW, 503), ({"suggestedWindow": 7}, 200), (BACKWARD, 200)], indirect=True
)
def test_an_answer_that_says_nothing_is_a_failure(directory: Directory) -> None:
    with pytest.raises(acme.AcmeFailed):
        acme.suggested(directory.settings, EXAMPLE.encode())


def test_a_ca_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(acme.AcmeFailed):
        acme.suggested(AcmeSettings(domains=["a.test"], directory="http://127.0.0.1:1/dir"), EXAMPLE.encode())
