"""A real server on a real socket with a store's context, and clients that shake hands with it."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_on(loop: str, main: Callable[[], object]) -> object:
    """Run a coroutine function on an event loop of `LOOPS`."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Echo lines on an ephemeral port, which is given."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def client_context(ca: Path, **attributes: object) -> ssl.SSLContext:
    """A verifying client's context; `attributes` are set on it, a `ciphers` or `curve` among them."""
    context = ssl.create_default_context(cafile=str(ca))
    if "ciphers" in attributes:
        context.set_ciphers(str(attributes.pop("ciphers")))
    if "curve" in attributes:
        context.set_ecdh_curve(str(attributes.pop("curve")))
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


@dataclass(frozen=True)
class Seen:
    """What a client saw; `session` can resume, and `is_resumed` says that it did."""

    certificate: bytes
    version: str
    cipher: str
    alpn: str | None
    session: ssl.SSLSession | None
    is_resumed: bool


async def shake(port: int, context: ssl.SSLContext, host: str | None, session: ssl.SSLSession | None = None) -> Seen:
    """One handshake, verified as `context` asks; a line goes there and back, so that tickets have arrived."""
    return await asyncio.to_thread(shake_now, port, context, host, session)


def shake_now(port: int, context: ssl.SSLContext, host: str | None, session: ssl.SSLSession | None = None) -> Seen:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host, session=session) as tls,
    ):
        tls.sendall(b"hello\n")
        assert tls.recv(100) == b"hello\n"
        return Seen(
            certificate=tls.getpeercert(binary_form=True) or b"",
            version=tls.version() or "",
            cipher=(tls.cipher() or ("",))[0],
            alpn=tls.selected_alpn_protocol(),
            session=tls.session,
            is_resumed=bool(tls.session_reused),
        )


def certificate_shown(port: int, context: ssl.SSLContext, host: str) -> bytes:
    """A handshake and nothing more; -> the certificate that was shown. Raises OSError (ssl.SSLError)."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""
