import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.settings import TLSSettings
from gateway.tls import inspect
from gateway.tls.pair import Problem
from gateway.tls.store import CertificateStore
from tests.tls.makers import make, trust
from tests.tls.servers import serving


def test_a_folder_without_certificates_is_no_error_for_a_start_makes_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        (problem,) = inspect.problems(folder)
        assert not problem.is_error
        assert "a start makes one" in problem.message
    assert list(tmp_path.iterdir()) == []


def test_good_certificates_have_no_problems(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / "a.key").chmod(0o600)
    assert inspect.problems(tmp_path) == []


def test_errors_and_warnings_name_their_file(tmp_path: Path) -> None:
    make("a.test", start=-9, days=2).write(tmp_path, "a")
    (tmp_path / "a.key").chmod(0o644)
    make("b.test").write(tmp_path, "b")
    (tmp_path / "b.key").write_bytes(make("b.test").key)
    assert [(problem.file, problem.is_error) for problem in inspect.problems(tmp_path)] == [
        ("a.crt", False),
        ("b.key", True),
        ("a.key", False),
    ]


def test_unknown_ciphers_are_an_error_of_the_configuration(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    settings = TLSSettings(profile="custom", ciphers="NO-SUCH-SUITE")
    message = "tls.ciphers: OpenSSL knows no suite of 'NO-SUCH-SUITE'"
    assert inspect.problems(tmp_path, settings) == [Problem("routes.yaml", message)]


def shown(folder: Path, **options: str) -> inspect.Shown:
    make("a.test", "192.0.2.1", days=50, start=-1).write(folder, "a")
    store = CertificateStore(folder)
    store.reload()

    async def main() -> inspect.Shown:
        async with serving(store.server_context()) as port:
            return await asyncio.to_thread(
                lambda: inspect.shown_by(("127.0.0.1", port), ca=trust(folder), **options)  # type: ignore[arg-type]
            )

    return asyncio.run(main())


def test_what_a_server_shows_is_told(tmp_path: Path) -> None:
    seen = shown(tmp_path, name="a.test")
    assert (seen.version, seen.hosts, seen.issuer) == ("TLSv1.3", ("a.test", "192.0.2.1"), "CN=Test CA")
    assert seen.cipher.startswith("TLS_")
    assert 48.9 < seen.days_left() < 49.1


def test_a_certificate_of_another_name_is_not_to_be_trusted(tmp_path: Path) -> None:
    with pytest.raises(inspect.CheckFailed, match=r"not to be trusted: Hostname mismatch.*'b\.test'"):
        shown(tmp_path, name="b.test")
    with pytest.raises(inspect.CheckFailed, match=r"not to be trusted: IP address mismatch"):
        shown(tmp_path)


FAILURES: dict[str, tuple[Callable[[int], tuple[str, int]], str]] = {
    "no listener": (lambda _: ("127.0.0.1", 1), "no connection: Connection refused"),
    "no such name": (lambda _: ("host.invalid", 443), "the name does not resolve"),
    "a name that is none": (lambda _: ("a" * 64 + ".test", 443), "label"),
    "a listener that is silent": (lambda port: ("127.0.0.1", port), "no answer in time"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_server_that_cannot_be_reached_is_told_in_a_line(failure: str) -> None:
    address, message = FAILURES[failure]
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(inspect.CheckFailed) as caught:
        inspect.shown_by(address(silent.getsockname()[1]), timeout=0.2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_speaks_no_tls_is_told(tmp_path: Path) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        await asyncio.to_thread(inspect.shown_by, server.sockets[0].getsockname())

    with pytest.raises(inspect.CheckFailed, match=r"no TLS handshake: (wrong version number|record layer failure)"):
        asyncio.run(main())
