import asyncio
import multiprocessing
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from gateway.tls import authority, files
from gateway.tls.store import CertificateStore
from tests.tls.makers import make
from tests.tls.servers import client_context, serving, shake


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def leaf_of(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_folder_gets_a_certificate_that_a_client_trusting_the_ca_accepts(tmp_path: Path) -> None:
    created = authority.ensure(tmp_path / "certs")
    assert created is not None
    store = CertificateStore(tmp_path / "certs")
    assert store.reload() == []
    client = client_context(created.ca, verify_flags=ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_TRUSTED_FIRST)

    async def main() -> list[str]:
        async with serving(store.server_context()) as port:
            return [(await shake(port, client, host)).version for host in ("localhost", "127.0.0.1", "::1")]

    assert asyncio.run(main()) == ["TLSv1.3"] * 3


def test_the_certificate_names_this_machine_is_for_servers_and_lives_for_at_most_366_days(tmp_path: Path) -> None:
    created = authority.ensure(tmp_path)
    assert created is not None
    leaf = leaf_of(created.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == set(authority.local_names())
    assert {"localhost", "*.localhost", "127.0.0.1", "::1"} <= set(authority.local_names())
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=366)
    assert leaf.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30), "a slow clock accepts it too"


def test_the_ca_can_sign_certificates_and_no_further_ca(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    constraints = leaf_of(tmp_path / "dev-ca" / "ca.crt").extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_the_ca_is_not_among_the_certificates_that_are_served(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    store = CertificateStore(tmp_path)
    store.reload()
    assert [pair.name for pair in store.pairs] == ["localhost"]


def test_nobody_else_can_read_the_keys(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    assert mode(tmp_path / "localhost.key") == 0o600
    assert mode(tmp_path / "dev-ca" / "ca.key") == 0o600
    assert mode(tmp_path / "dev-ca") == 0o700


def test_a_folder_for_the_ca_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "dev-ca").mkdir(mode=0o755)
    authority.ensure(tmp_path)
    assert mode(tmp_path / "dev-ca") == 0o700


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    before = content(tmp_path)
    assert authority.ensure(tmp_path) is None
    assert content(tmp_path) == before


def test_a_folder_with_certificates_is_left_alone(tmp_path: Path) -> None:
    make("example.com").write(tmp_path, "example")
    assert authority.ensure(tmp_path) is None
    assert set(content(tmp_path)) == {"example.crt", "example.key"}


def test_nothing_temporary_is_left_behind(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    assert set(content(tmp_path)) == {"localhost.crt", "localhost.key", "dev-ca/ca.crt", "dev-ca/ca.key"}


def _start(folder: Path, barrier: object, made: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    made.put(authority.ensure(folder) is not None)  # type: ignore[attr-defined]


def test_of_concurrent_starts_one_makes_the_certificate(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    barrier, made = processes.Barrier(4), processes.Queue()
    starts = [processes.Process(target=_start, args=(tmp_path, barrier, made)) for _ in range(4)]
    for start in starts:
        start.start()
    assert sorted(made.get(timeout=60) for _ in starts) == [False, False, False, True]
    for start in starts:
        start.join()
    store = CertificateStore(tmp_path)
    assert store.reload() == []


@pytest.mark.parametrize("written", range(4))
def test_a_start_that_was_cut_short_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    count = iter(range(10))

    def write_some(path: Path, data: bytes, mode: int) -> None:
        if next(count) == written:
            raise OSError("the power is gone")
        files.write_whole(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(authority, "write_whole", write_some)
        with pytest.raises(OSError, match="power"):
            authority.ensure(tmp_path)
    assert authority.ensure(tmp_path) is not None
    store = CertificateStore(tmp_path)
    assert store.reload() == []
    assert len(store) == 1


@pytest.mark.parametrize("why", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: type[BaseException]
) -> None:
    path = tmp_path / "a.key"
    files.write_whole(path, b"old", 0o600)

    def fail(descriptor: int) -> None:
        raise why("in the middle")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(why, match="in the middle"):
        files.write_whole(path, b"new", 0o600)
    assert content(tmp_path) == {"a.key": b"old"}


def test_a_certificate_that_is_about_to_expire_is_renewed_with_its_key_and_ca(tmp_path: Path) -> None:
    authority.issue(tmp_path, ["localhost"], days=20)
    authority.issue(tmp_path, ["llama.localhost"], days=20)
    before = content(tmp_path)
    assert authority.ensure(tmp_path) is not None
    after = content(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["localhost.crt"]
    assert leaf_of(tmp_path / "localhost.crt").not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)


def test_the_expiring_certificate_of_another_issuer_is_left_alone(tmp_path: Path) -> None:
    authority.issue(tmp_path, ["localhost"])
    made = make("localhost", days=2).write(tmp_path, "localhost")
    assert authority.ensure(tmp_path) is None
    assert (tmp_path / "localhost.crt").read_bytes() == made.chain


def test_issued_certificates_are_served_for_their_names(tmp_path: Path) -> None:
    created = authority.issue(tmp_path, ["*.models.test", "10.1.2.3"])
    assert created.certificate == tmp_path / "_.models.test.crt"
    store = CertificateStore(tmp_path)
    store.reload()
    assert [(pair.hosts, pair.addresses) for pair in store.pairs] == [(("*.models.test",), ("10.1.2.3",))]


def test_the_certificate_of_another_issuer_is_never_overwritten(tmp_path: Path) -> None:
    made = make("example.com").write(tmp_path, "example.com")
    with pytest.raises(authority.CannotIssue, match=r"example\.com\.crt was not signed by"):
        authority.issue(tmp_path, ["example.com"])
    assert (tmp_path / "example.com.crt").read_bytes() == made.chain
    assert (tmp_path / "example.com.key").read_bytes() == made.key


def test_a_key_that_waits_for_its_certificate_is_never_overwritten(tmp_path: Path) -> None:
    key = make("localhost", kind="rsa").key
    (tmp_path / "localhost.key").write_bytes(key)
    with pytest.raises(authority.CannotIssue, match=r"localhost\.key is not an ECDSA key"):
        authority.ensure(tmp_path)
    assert (tmp_path / "localhost.key").read_bytes() == key


@pytest.mark.parametrize("name", ["", "a/../b", "ex ample.com", "*", "*.*.com", "a..b", "-", "ü.de", "a" * 254, "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(authority.CannotIssue, match="neither a host name nor an IP address"):
        authority.issue(tmp_path, [name])
    assert content(tmp_path) == {}


def test_a_ca_without_its_key_is_reported_and_not_replaced(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    (tmp_path / "dev-ca" / "ca.key").unlink()
    before = content(tmp_path)
    with pytest.raises(authority.CannotIssue, match="not a CA with its key"):
        authority.issue(tmp_path, ["a.test"])
    assert content(tmp_path) == before


def test_what_is_printed_says_how_curl_python_and_debian_trust_it(tmp_path: Path) -> None:
    created = authority.ensure(tmp_path)
    assert created is not None
    text = created.how_to_trust()
    assert f"curl --cacert {created.ca} https://localhost:8443/" in text
    assert f"SSL_CERT_FILE={created.ca}" in text
    assert "/usr/local/share/ca-certificates/" in text
    assert "update-ca-certificates" in text
