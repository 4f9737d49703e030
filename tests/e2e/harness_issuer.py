"""An issuer of JWTs as a server on loopback: its keys, its metadata, and tokens that it signs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


class Issuer:
    """Publishes one key at /jwks.json; `rotate` replaces it. `delay` is seconds until it answers."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.asked: list[str] = []
        self.documents: dict[str, Any] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                time.sleep(issuer.delay)
                document = issuer.documents.get(self.path)
                body = json.dumps(document).encode()
                self.send_response(404 if document is None else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.rotate("first")

    def rotate(self, kid: str) -> None:
        self.kid, self.key = kid, ec.generate_private_key(ec.SECP256R1())
        member = {**ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True), "kid": kid}
        self.documents["/jwks.json"] = {"keys": [member]}

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Good for a minute; a claim that is None is left out."""
        now = int(time.time())
        whole = {"iss": self.url, "aud": "models", "sub": "alice", "iat": now, "exp": now + 60, **claims}
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, self.key, "ES256", headers={"kid": self.kid, **(header or {})})

    def entry(self, **more: Any) -> dict[str, Any]:
        """For `auth.jwt`."""
        own = {"issuer": self.url, "audience": ["models"], "algorithms": ["ES256"]}
        return {**own, "jwks_url": f"{self.url}/jwks.json", **more}

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
