"""What a server of keys may not do to those who wait for news."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from plugins import keys_from_url
from plugins.keys_from_url import KeysFromURL


def test_a_server_that_trickles_is_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_from_url, "_SLOWEST", 0.2)
    is_done = threading.Event()

    class Trickling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(1000):
                    if is_done.wait(0.02):
                        break
                    self.wfile.write(b"#")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Trickling) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            with pytest.raises(ValueError, match="has not answered in full"):
                KeysFromURL(url=f"http://127.0.0.1:{server.server_port}/").read()
        finally:
            is_done.set()
            thread.join()
