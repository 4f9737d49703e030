"""Clients that open a new connection for every request, and resume the TLS session of the one before.

usage: python -m bench.load.resumed URL SECONDS CLIENTS BEARERS CERTIFICATE
BEARERS is a file with one on each line, which clients take turns with. Prints {"requests": …, "resumed": …, "seconds":
…}. wrk cannot resume. These clients are slower than whoever is measured: it is its CPU that counts.
"""

import json
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

_BODY = b'{"model":"demo","messages":[{"role":"user","content":"hi"}]}'


def main(url: str, seconds: str, clients: str, bearers: str, certificate: str) -> int:
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=certificate)
    secrets = Path(bearers).read_text().split("\n")
    count, began = int(clients), time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        found = [
            pool.submit(_client, parts, context, secrets[number % len(secrets)], began + float(seconds))
            for number in range(count)
        ]
    requests, resumed = (sum(column) for column in zip(*(each.result() for each in found), strict=True))
    print(json.dumps({"requests": requests, "resumed": resumed, "seconds": time.monotonic() - began}))
    return 0


def _client(url: SplitResult, context: ssl.SSLContext, bearer: str, until: float) -> tuple[int, int]:
    """-> requests, and those of them whose connection resumed a session."""
    host = url.hostname or ""
    request = (
        f"POST {url.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    ).encode() + _BODY
    session: ssl.SSLSession | None = None
    requests = resumed = 0
    while time.monotonic() < until:
        with (
            socket.create_connection((host, url.port or 443), 10) as plain,
            context.wrap_socket(plain, server_hostname=host, session=session) as tls,
        ):
            tls.sendall(request)
            answer = b"".join(iter(lambda: tls.recv(65536), b""))
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer[:200].decode("latin-1"))
            requests += 1
            resumed += bool(tls.session_reused)
            session = tls.session  # its ticket came with the answer
    return requests, resumed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
