"""Real handshakes over real sockets, on both event loops, with a store's context."""

import asyncio
import contextlib
import functools
import multiprocessing
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import TLSSettings
from gateway.tls.store import CertificateStore
from tests.tls.makers import Leaf, Made, make, make_authority, sign, trust
from tests.tls.servers import LOOPS, Seen, client_context, run_on, serving, shake, shake_now

TLS12 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
Main = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Main:
    return functools.partial(run_on, request.param)


def loaded(folder: Path, **options: Any) -> CertificateStore:
    contexts = options.pop("contexts", 1024)
    store = CertificateStore(folder, TLSSettings(**options), contexts=contexts)
    assert store.reload() == []
    return store


def certificates_for(run: Main, store: CertificateStore, client: ssl.SSLContext, *hosts: str | None) -> list[bytes]:
    async def main() -> list[bytes]:
        async with serving(store.server_context()) as port:
            return [(await shake(port, client, host)).certificate for host in hosts]

    seen: list[bytes] = run(main)
    return seen


def seen_by(store: CertificateStore, client: ssl.SSLContext, host: str | None) -> Seen:
    async def main() -> Seen:
        async with serving(store.server_context()) as port:
            return await shake(port, client, host)

    return asyncio.run(main())


def test_each_host_is_answered_with_its_certificate(run: Main, tmp_path: Path) -> None:
    exact, wild = make("x.a.test").write(tmp_path, "exact"), make("*.a.test").write(tmp_path, "wild")
    other = make("b.test", "192.0.2.1", "127.0.0.1").write(tmp_path, "other")
    client = client_context(trust(tmp_path))
    seen = certificates_for(run, loaded(tmp_path), client, "x.a.test", "y.a.test", "b.test", "127.0.0.1")
    assert seen == [exact.der, wild.der, other.der, other.der]


def test_a_client_that_asks_for_an_unknown_host_gets_the_default(run: Main, tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    default = make("b.test").write(tmp_path, "default")
    client = client_context(trust(tmp_path), check_hostname=False)
    assert certificates_for(run, loaded(tmp_path), client, "unknown.test", None) == [default.der] * 2


def test_with_strict_sni_an_unknown_host_is_refused_with_the_alert_for_it(run: Main, tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    client = client_context(trust(tmp_path), check_hostname=False)
    with pytest.raises(ssl.SSLError) as caught:
        certificates_for(run, loaded(tmp_path, strict_sni=True), client, "unknown.test")
    assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"


def test_the_client_chooses_between_ecdsa_and_rsa(tmp_path: Path) -> None:
    ecdsa = make("a.test").write(tmp_path, "a")
    rsa = make("a.test", kind="rsa").write(tmp_path, "a.rsa")
    store, ca = loaded(tmp_path), trust(tmp_path)
    only_rsa = client_context(ca, ciphers="ECDHE-RSA-AES128-GCM-SHA256", **TLS12)
    only_ecdsa = client_context(ca, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", **TLS12)
    assert seen_by(store, only_rsa, "a.test").certificate == rsa.der
    assert seen_by(store, only_ecdsa, "a.test").certificate == ecdsa.der
    assert seen_by(store, client_context(ca), "a.test").certificate in (ecdsa.der, rsa.der)
    assert repr(store).count("contexts=1 ") == 1, "one context offers both"


def test_the_whole_chain_is_sent(tmp_path: Path) -> None:
    root = make_authority("Root")
    made = sign(Leaf(["a.test"]), make_authority("Between", above=root)).write(tmp_path, "a")
    assert seen_by(loaded(tmp_path), client_context(trust(tmp_path, root)), "a.test").certificate == made.der


def test_a_key_with_a_password_and_an_ed25519_key_serve(tmp_path: Path) -> None:
    locked = make("a.test").encrypted(b"secret").write(tmp_path, "a")
    (tmp_path / "a.pass").write_text("secret\n")
    modern = make("b.test", kind="ed25519").write(tmp_path, "b")
    store, client = loaded(tmp_path), client_context(trust(tmp_path))
    assert seen_by(store, client, "a.test").certificate == locked.der
    assert seen_by(store, client, "b.test").certificate == modern.der


def test_no_more_contexts_are_kept_than_allowed_and_all_hosts_are_answered(run: Main, tmp_path: Path) -> None:
    made = [make(f"h{number}.test").write(tmp_path, f"h{number}") for number in range(5)]
    store = loaded(tmp_path, contexts=2)
    hosts = [f"h{number}.test" for number in (0, 1, 2, 3, 4, 0, 4, 2)]
    seen = certificates_for(run, store, client_context(trust(tmp_path)), *hosts)
    assert seen == [made[int(host[1])].der for host in hosts]
    assert "contexts=2 " in repr(store)


def test_a_handshake_reads_no_file(run: Main, tmp_path: Path) -> None:
    made = make("a.test").write(tmp_path, "a")
    store, client = loaded(tmp_path), client_context(trust(tmp_path))
    for file in tmp_path.iterdir():
        file.unlink()
    assert certificates_for(run, store, client, "a.test") == [made.der]


def test_the_contexts_of_replaced_certificates_are_given_up(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    make("b.test").write(tmp_path, "b")
    store, client = loaded(tmp_path), client_context(trust(tmp_path))
    seen_by(store, client, "a.test")
    seen_by(store, client, "b.test")
    assert "contexts=2 " in repr(store)
    make("b.test").write(tmp_path, "b")
    store.reload()
    assert "contexts=1 " in repr(store), "a's is kept, the old b's is not"


# --- changes under a running server -----------------------------------------------------------------------------------


class Swapping:
    """One pair that is replaced again and again, as other programs do it, each step followed by a reload."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = [make("a.test").write(folder, "a")]

    def steps(self) -> Iterator[tuple[Callable[[], object], Made | None]]:
        """What is done to the files, and the pair that is complete then, if one is."""
        crt, key = self.folder / "a.crt", self.folder / "a.key"
        for number in range(12):
            made = make("a.test", kind="rsa" if number % 3 == 0 else "ecdsa")
            self.made.append(made)
            half = len(made.chain) // 2
            yield functools.partial(crt.write_bytes, made.chain[:half]), None
            yield functools.partial(crt.write_bytes, made.chain), None
            if number % 4 == 0:
                yield key.unlink, None
            yield functools.partial(key.write_bytes, b""), None
            yield functools.partial(key.write_bytes, made.key), made


def test_no_handshake_fails_while_the_files_are_swapped_and_open_connections_live_on(run: Main, tmp_path: Path) -> None:
    swapping = Swapping(tmp_path)
    still = make("b.test").write(tmp_path, "b")
    store, client = loaded(tmp_path), client_context(trust(tmp_path))
    seen: list[bytes] = []

    async def shake_until(done: asyncio.Event, port: int) -> None:
        while not done.is_set():
            seen.append((await shake(port, client, "a.test")).certificate)
            assert (await shake(port, client, "b.test")).certificate == still.der

    async def main() -> None:
        done = asyncio.Event()
        async with serving(store.server_context()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="a.test")
            clients = asyncio.gather(*(shake_until(done, port) for _ in range(2)))
            for step, complete in swapping.steps():
                step()
                await asyncio.to_thread(store.reload)
                if complete:
                    assert (await shake(port, client, "a.test")).certificate == complete.der
                writer.write(b"still here\n")
                assert await reader.readline() == b"still here\n"
            done.set()
            await clients
            writer.close()

    run(main)
    assert seen
    assert set(seen) <= {made.der for made in swapping.made}


def test_a_reload_does_not_touch_the_session_of_an_open_connection(run: Main, tmp_path: Path) -> None:
    old = make("a.test").write(tmp_path, "a")
    store, client = loaded(tmp_path), client_context(trust(tmp_path))

    async def main() -> bytes:
        async with serving(store.server_context()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="a.test")
            make("a.test").write(tmp_path, "a")
            store.reload()
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return certificate

    assert run(main) == old.der


# --- sessions ---------------------------------------------------------------------------------------------------------


def _serve_forever(listener: socket.socket, context: ssl.SSLContext, store: CertificateStore, again: Any) -> None:
    """A worker: reloads its own store when told, and answers one line per connection."""

    def reload_when_told() -> None:
        while True:
            again.wait()
            store.reload()
            again.clear()

    threading.Thread(target=reload_when_told, daemon=True).start()
    while True:
        raw, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as tls:
            tls.sendall(tls.recv(100))
            tls.recv(100)


class Workers:
    """Two processes forked from one that made the context, each with its own listener."""

    def __init__(self, folder: Path, **options: Any) -> None:
        store = loaded(folder, **options)
        context = store.server_context()
        processes = multiprocessing.get_context("fork")
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        self.again = [processes.Event() for _ in listeners]
        self.running = [
            processes.Process(target=_serve_forever, args=(listener, context, store, again), daemon=True)
            for listener, again in zip(listeners, self.again, strict=True)
        ]
        for process in self.running:
            process.start()
        for listener in listeners:
            listener.close()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.terminate()
            process.join()


def settled(port: int, client: ssl.SSLContext, made: Made) -> None:
    """Shake hands until the worker shows the new certificate."""
    for _ in range(1000):
        if shake_now(port, client, "a.test").certificate == made.der:
            return
    raise AssertionError("the worker never took the new certificate over")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_with_tickets_a_session_resumes_in_another_worker_and_after_a_reload(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    make("a.test").write(tmp_path, "a")
    client = client_context(trust(tmp_path), maximum_version=version)
    with Workers(tmp_path, session_tickets=True) as workers:
        first = shake_now(workers.ports[0], client, "a.test")
        assert not first.is_resumed
        assert [shake_now(port, client, "a.test", first.session).is_resumed for port in workers.ports] == [True, True]
        new = make("a.test").write(tmp_path, "a")
        for port, again in zip(workers.ports, workers.again, strict=True):
            again.set()
            settled(port, client, new)
        assert [shake_now(port, client, "a.test", first.session).is_resumed for port in workers.ports] == [True, True]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_tickets_no_session_is_offered_to_resume(tmp_path: Path, version: ssl.TLSVersion) -> None:
    make("a.test").write(tmp_path, "a")
    client = client_context(trust(tmp_path), maximum_version=version)
    seen = seen_by(loaded(tmp_path), client, "a.test")
    assert seen.session is None or not seen.session.has_ticket
