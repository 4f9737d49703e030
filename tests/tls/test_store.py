import os
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.settings import TLSSettings
from gateway.tls import store as store_module
from gateway.tls.pair import Pair, Problem, read_pair
from gateway.tls.store import QUICK, CertificateStore
from tests.tls.makers import Made, make

LATER = 10.0  # seconds ahead of the files' times, which are settled then


def names(store: CertificateStore) -> list[str]:
    return [pair.name for pair in store.pairs]


def served(store: CertificateStore, host: str) -> bytes:
    group = store.find(host)
    assert group is not None
    return group[0].leaf


def is_served(made: Made, store: CertificateStore, host: str = "a.test") -> bool:
    return served(store, host) in made.chain


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pairs whose files are read."""
    names: list[str] = []

    def read(folder: Path, name: str, *, is_quick: bool) -> Pair:
        names.append(name)
        return read_pair(folder, name, is_quick=is_quick)

    monkeypatch.setattr(store_module, "read_pair", read)
    return names


def loaded(folder: Path, ahead: float = 0, **options: object) -> CertificateStore:
    store = CertificateStore(folder, TLSSettings(**options), clock=lambda: time.time() + ahead)  # type: ignore[arg-type]
    store.reload()
    return store


def test_every_pair_directly_in_the_folder_is_served(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    make("b.test").write(tmp_path, "b.example.com")
    (tmp_path / "below").mkdir()
    make("c.test").write(tmp_path / "below", "c")
    make("d.test").write(tmp_path, ".hidden")
    (tmp_path / "README.md").write_text("no certificate")
    store = CertificateStore(tmp_path)
    assert store.reload() == []
    assert names(store) == ["a", "b.example.com"]


def test_links_are_followed_as_kubernetes_mounts_secrets(tmp_path: Path) -> None:
    for generation in ("..1", "..2"):
        (tmp_path / generation).mkdir()
    old, new = make("a.test").write(tmp_path / "..1", "tls"), make("a.test").write(tmp_path / "..2", "tls")
    (tmp_path / "..data").symlink_to("..1")
    for file in ("tls.crt", "tls.key"):
        (tmp_path / file).symlink_to(f"..data/{file}")
    store = loaded(tmp_path)
    assert is_served(old, store)
    (tmp_path / "..next").symlink_to("..2")
    os.replace(tmp_path / "..next", tmp_path / "..data")
    assert store.reload() == []
    assert is_served(new, store)


def test_a_replaced_pair_is_served_after_a_reload(tmp_path: Path) -> None:
    old = make("a.test").write(tmp_path, "a")
    store = loaded(tmp_path)
    new = make("a.test").write(tmp_path, "a")
    assert is_served(old, store)
    assert store.reload() == []
    assert is_served(new, store)


def test_added_and_removed_pairs_are_noticed(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    store = loaded(tmp_path)
    make("b.test").write(tmp_path, "b")
    store.reload()
    assert names(store) == ["a", "b"]
    for suffix in ("crt", "key"):
        (tmp_path / f"a.{suffix}").unlink()
    assert store.reload() == []
    assert names(store) == ["b"]


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another key": (lambda f: (f / "a.key").write_bytes(make("a.test").key), "a.key"),
    "another certificate": (lambda f: (f / "a.crt").write_bytes(make("a.test").chain), "a.key"),
    "garbage for a certificate": (lambda f: (f / "a.crt").write_bytes(b"garbage"), "a.crt"),
    "an empty key": (lambda f: (f / "a.key").write_bytes(b""), "a.key"),
    "half a certificate": (lambda f: (f / "a.crt").write_bytes((f / "a.crt").read_bytes()[:300]), "a.crt"),
    "no certificate": (lambda f: (f / "a.crt").unlink(), "a.crt"),
    "no key": (lambda f: (f / "a.key").unlink(), "a.key"),
    "a key that is a folder": (lambda f: ((f / "a.key").unlink(), (f / "a.key").mkdir()), "a.key"),
    "a weak certificate": (lambda f: make("a.test", kind="rsa1024").write(f, "a"), "a.crt"),
    "an encrypted key": (lambda f: make("a.test").encrypted(b"?").write(f, "a"), "a.pass"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_bad_file_is_reported_and_never_replaces_a_good_one(tmp_path: Path, breakage: str) -> None:
    good = make("a.test").write(tmp_path, "a")
    make("b.test").write(tmp_path, "b")
    store = loaded(tmp_path)
    damage, file = BREAKAGES[breakage]
    damage(tmp_path)
    for _ in range(2):
        problems = store.reload()
        assert [(problem.file, problem.is_error) for problem in problems] == [(file, True)]
        assert is_served(good, store)
    shutil.rmtree(tmp_path / "a.key") if (tmp_path / "a.key").is_dir() else None
    repaired = make("a.test").write(tmp_path, "a")
    assert store.reload() == []
    assert is_served(repaired, store)


def test_a_pair_that_is_bad_from_the_start_keeps_no_other_from_being_served(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / "b.crt").write_bytes(b"garbage")
    (tmp_path / "c.key").write_bytes(b"waits for its certificate")
    store = CertificateStore(tmp_path)
    assert store.reload() == [
        Problem("b.crt", "no PEM certificate in it"),
        Problem("c.key", "there is no c.crt", is_error=False),
    ]
    assert names(store) == ["a"]


@pytest.mark.parametrize("loss", ["emptied", "removed"])
def test_a_folder_that_is_lost_changes_nothing_and_is_reported(tmp_path: Path, loss: str) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    good = make("a.test").write(folder, "a")
    store = loaded(folder)
    shutil.rmtree(folder)
    if loss == "emptied":
        folder.mkdir()
    for _ in range(2):
        (problem,) = store.reload()
        assert (problem.file, problem.is_error) == (str(folder), True)
        assert is_served(good, store)


def test_expired_and_future_certificates_are_served_with_a_warning(tmp_path: Path) -> None:
    make("a.test", start=-9, days=2).write(tmp_path, "a")
    make("b.test", start=9).write(tmp_path, "b")
    store = CertificateStore(tmp_path)
    assert [(problem.file, problem.is_error) for problem in store.reload()] == [("a.crt", False), ("b.crt", False)]
    assert names(store) == ["a", "b"]


def test_only_changed_pairs_are_read_again(tmp_path: Path, reads: list[str]) -> None:
    for name in "abc":
        make(f"{name}.test").write(tmp_path, name)
    store = loaded(tmp_path, ahead=LATER)
    assert reads == ["a", "b", "c"]
    make("b.test").write(tmp_path, "b")
    os.utime(tmp_path / "b.crt", (1, 1))  # whatever the file system's clock, it is another time
    store.reload()
    assert reads == ["a", "b", "c", "b"]


def test_a_pair_written_a_moment_ago_is_read_once_more(tmp_path: Path, reads: list[str]) -> None:
    make("a.test").write(tmp_path, "a")
    store = loaded(tmp_path)
    store.reload()
    assert reads == ["a", "a"], "a second write within a tick of the file system's clock leaves no trace"


def test_a_file_written_again_with_the_same_content_changes_nothing(tmp_path: Path) -> None:
    made = make("a.test").write(tmp_path, "a")
    store = loaded(tmp_path)
    before = store.pairs
    made.write(tmp_path, "a")
    store.reload()
    assert store.pairs[0] is before[0]


def test_an_unknown_host_gets_the_default_or_with_strict_sni_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(f"{name}.test").write(tmp_path, name)
    lenient = loaded(tmp_path, default_certificate="b")
    strict = loaded(tmp_path, default_certificate="b", strict_sni=True)
    default = lenient.find(None)
    assert default is not None
    assert default[0].name == "b"
    assert lenient.find("unknown.test") == default
    assert strict.find("unknown.test") is None
    assert strict.find("a.test") is not None
    assert [pair.name for pair in strict.find(None) or ()] == ["b"], (
        "who asks for no host cannot ask for an unknown one"
    )


def test_a_default_that_is_missing_is_reported(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (problem,) = CertificateStore(tmp_path, TLSSettings(default_certificate="main")).reload()
    assert problem.is_error
    assert problem.file == "main.crt"


def test_a_pair_that_openssl_refuses_is_reported_and_not_served(tmp_path: Path) -> None:
    ecdsa = make("a.test", kind="p384").write(tmp_path, "a")
    settings = TLSSettings(profile="custom", ciphers="ECDHE+AESGCM:@SECLEVEL=3")  # RSA of at least 3072 bits
    store = CertificateStore(tmp_path, settings)
    assert store.reload() == []
    make("a.test", kind="rsa").write(tmp_path, "a")
    (problem,) = store.reload()
    assert problem.file == "a.crt"
    assert "OpenSSL refuses it" in problem.message
    assert is_served(ecdsa, store)


def test_ciphers_that_openssl_does_not_know_are_refused_before_any_handshake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tls\.ciphers.*NO-SUCH-SUITE"):
        CertificateStore(tmp_path, TLSSettings(profile="custom", ciphers="NO-SUCH-SUITE"))


def test_the_state_is_told_by_its_repr(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / "b.crt").write_bytes(b"garbage")
    store = loaded(tmp_path)
    assert repr(store) == (
        f"<CertificateStore {tmp_path} <Index 1 pairs, 1 hosts, default (<Pair a ECDSA a.test>,)> "
        "contexts=0 problems=1>"
    )
    assert "PRIVATE" not in repr(store.pairs)


def many(folder: Path) -> CertificateStore:
    """More than a quick look takes the time for; the key of z is not known to be another one's."""
    pair = make("a.test")
    for number in range(QUICK + 2):
        pair.write(folder, f"m{number:03}")
    make("b.test").write(folder, "z")
    return CertificateStore(folder, clock=lambda: time.time() + LATER)


@pytest.mark.parametrize("ahead", [0.0, LATER])  # files just written are read again each time
def test_a_start_with_many_pairs_leaves_the_look_at_most_keys_to_the_next_reload(tmp_path: Path, ahead: float) -> None:
    many(tmp_path)
    made = make("b.test")
    made.write(tmp_path, "z")
    make("c.test").write(tmp_path, "c")
    shutil.copy(tmp_path / "c.key", tmp_path / "z.key")
    store = CertificateStore(tmp_path, clock=lambda: time.time() + ahead)
    assert store.reload(is_quick=True) == []
    assert is_served(made, store, "b.test")
    with pytest.raises(ssl.SSLError):  # in the handshake
        store.find("b.test")[0].load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # type: ignore[index]
    (problem,) = store.reload()
    assert (problem.file, problem.is_error) == ("z.key", True)
    assert "z" not in names(store)
    assert store.find("b.test") == store.find(None), "the default"
    assert store.reload() == [problem]
    made.write(tmp_path, "z")
    assert store.reload() == []
    assert is_served(made, store, "b.test")


def test_a_default_certificate_is_looked_at_in_any_start(tmp_path: Path) -> None:
    many(tmp_path)
    make("c.test").write(tmp_path, "c")
    shutil.copy(tmp_path / "c.key", tmp_path / "z.key")
    store = CertificateStore(tmp_path, TLSSettings(default_certificate="z"))
    assert {problem.file for problem in store.reload(is_quick=True)} == {"z.key", "z.crt"}


def test_a_good_pair_that_a_start_did_not_look_at_is_replaced_by_no_bad_one(tmp_path: Path) -> None:
    store = many(tmp_path)
    store.reload(is_quick=True)
    leaf = served(store, "b.test")
    make("c.test").write(tmp_path, "c")
    shutil.copy(tmp_path / "c.key", tmp_path / "z.key")
    for _ in range(3):
        (problem,) = store.reload()
        assert problem.file == "z.key"
        assert served(store, "b.test") == leaf


@pytest.mark.slow
def test_ten_thousand_pairs_are_ready_within_two_seconds(tmp_path: Path) -> None:
    for number in range(10_000):
        make(f"h{number}.test", f"www.h{number}.test").write(tmp_path, f"h{number}")
    store = CertificateStore(tmp_path)
    began = time.process_time()
    store.reload(is_quick=True)
    assert time.process_time() - began < 2
    assert len(store) == 10_000
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    group = store.find("www.h9999.test")
    assert group is not None
    group[0].load_into(context)
