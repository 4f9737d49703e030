"""API keys from a URL: a bucket, a Git server, a service of yours. A store of keys for `auth.key_store`."""

import os
import ssl
import time
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2

_LONGEST = 256 << 20  # bytes; 100,000 keys take 35 MB
_SLOWEST = 60.0  # seconds for all of them; who waits for one that trickles hears of no revocation, and nobody of that


class KeysFromURL:
    """The key file at `url`, which is asked for with `If-None-Match`. `token_env` names the variable with a token that
    is sent as a bearer's; `ca` a file with the CAs that prove the server, instead of the system's."""

    def __init__(self, *, url: str, token_env: str = "", ca: str = "", timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
            raise ValueError("`url` must be https://: who can change keys on their way can make one for everything")
        if token_env and not os.environ.get(token_env):
            raise ValueError(f"`token_env`: {token_env} is not set")
        context = ssl.create_default_context(cafile=ca or None)
        headers = {"authorization": f"Bearer {os.environ[token_env]}"} if token_env else {}
        self.url = url
        self.client = httpx2.Client(verify=context, timeout=timeout, headers=headers)
        self.tag = ""

    def read(self) -> str | None:
        headers = {"if-none-match": self.tag} if self.tag else {}
        end = time.monotonic() + _SLOWEST
        with self.client.stream("GET", self.url, headers=headers) as answer:
            if answer.status_code == 304 and self.tag:
                return None
            if answer.status_code != 200:  # a redirect too: nobody but this server says which keys there are
                raise ValueError(f"it answers {answer.status_code}")
            content = bytearray()
            for part in answer.iter_bytes():
                content += part
                if len(content) > _LONGEST:
                    raise ValueError(f"it answers more than {_LONGEST} bytes")
                if time.monotonic() > end:
                    raise ValueError(f"it has not answered in full after {_SLOWEST:g} s")
        text = content.decode()
        self.tag = answer.headers.get("etag", "")
        return text

    def __repr__(self) -> str:
        return f"<KeysFromURL {self.url} {self.tag}>"


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
