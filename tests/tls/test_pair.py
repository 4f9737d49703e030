import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.tls.pair import LARGEST_FILE, BadPair, read_pair
from tests.tls.makers import AUTHORITY, KEY_MAKERS, PEM, Leaf, make, make_authority, sign, with_sha1

MADE = make("a.test")


def refusal(folder: Path, name: str = "a") -> str:
    with pytest.raises(BadPair) as caught:
        read_pair(folder, name)
    assert caught.value.problem.is_error
    return str(caught.value)


def warnings(folder: Path, name: str = "a") -> list[str]:
    found = list(read_pair(folder, name).warnings(time.time()))
    assert not any(problem.is_error for problem in found)
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("kind", "key_type"),
    [("ecdsa", "ECDSA P-256"), ("p384", "ECDSA P-384"), ("rsa", "RSA 2048"), ("ed25519", "Ed25519")],
)
def test_a_good_pair_is_taken_whatever_its_kind_of_key(tmp_path: Path, kind: str, key_type: str) -> None:
    make("A.example.com", "*.b.test", "a.example.com.", "192.0.2.1", kind=kind).write(tmp_path, "a")
    pair = read_pair(tmp_path, "a")
    assert pair.key_type == key_type
    assert pair.hosts == ("a.example.com", "*.b.test")
    assert pair.addresses == ("192.0.2.1",)
    assert pair.issuer == "CN=Test CA"
    assert warnings(tmp_path) == []


def test_the_old_formats_of_keys_are_read(tmp_path: Path) -> None:
    for kind, begin in (("rsa", b"BEGIN RSA PRIVATE KEY"), ("ecdsa", b"BEGIN EC PRIVATE KEY")):
        made = make("a.test", kind=kind).write(tmp_path, kind)
        key = serialization.load_pem_private_key(made.key, None)
        old = key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        assert begin in old
        (tmp_path / f"{kind}.key").write_bytes(b"# comment\n" + old)
        assert read_pair(tmp_path, kind).key == made.key.strip() + b"\n"


@pytest.mark.parametrize("missing", ["crt", "key"])
def test_a_pair_without_one_of_its_files_is_refused(tmp_path: Path, missing: str) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / f"a.{missing}").unlink()
    assert refusal(tmp_path) == f"a.{missing}: is missing"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / "a.key").write_bytes(make("a.test").key)
    assert refusal(tmp_path).startswith("a.key: not the key of a.crt")


def test_a_chain_that_begins_with_its_issuer_is_refused(tmp_path: Path) -> None:
    made = make("a.test").write(tmp_path, "a")
    (tmp_path / "a.crt").write_bytes(AUTHORITY.pem + made.chain)
    assert "whose first certificate must be the server's own" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE-----\n"])
def test_garbage_is_refused_with_the_file_named(tmp_path: Path, content: bytes) -> None:
    make("a.test").write(tmp_path, "a").write(tmp_path, "b")
    (tmp_path / "a.crt").write_bytes(content)
    (tmp_path / "b.key").write_bytes(content)
    assert refusal(tmp_path, "a") == "a.crt: no PEM certificate in it"
    assert refusal(tmp_path, "b") == "b.key: no PEM private key in it"


def test_what_is_no_ordinary_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    import os

    make("a.test").write(tmp_path, "a")
    (tmp_path / "a.key").unlink()
    os.mkfifo(tmp_path / "a.key")
    assert refusal(tmp_path).startswith("a.key: is not a file")
    (tmp_path / "a.crt").write_bytes(b"x" * (LARGEST_FILE + 1))
    assert refusal(tmp_path).startswith("a.crt: is not a file of at most")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"kind": "rsa1024"}, "an RSA key of 1024 bits is too weak"),
        ({"kind": "secp256k1"}, "neither ECDSA (P-256, P-384, P-521), RSA nor Ed25519"),
    ],
)
def test_weak_certificates_are_refused(tmp_path: Path, wanted: dict[str, object], reason: str) -> None:
    make("a.test", **wanted).write(tmp_path, "a")
    assert refusal(tmp_path).startswith("a.crt: ")
    assert reason in refusal(tmp_path)


def test_a_certificate_signed_with_sha1_is_refused_wherever_it_is_in_the_chain(tmp_path: Path) -> None:
    weak = with_sha1(sign(Leaf(["a.test"]), make_authority(kind="rsa"))).write(tmp_path, "a")
    assert refusal(tmp_path) == "a.crt: signed with SHA1, which is broken"
    good = make("a.test").write(tmp_path, "a")
    (tmp_path / "a.crt").write_bytes(good.chain + weak.chain)
    assert refusal(tmp_path) == "a.crt: signed with SHA1, which is broken"


def test_an_encrypted_key_is_opened_with_its_password_file(tmp_path: Path) -> None:
    make("a.test").encrypted(b"a pass phrase").write(tmp_path, "a")
    assert refusal(tmp_path) == "a.pass: is missing"
    (tmp_path / "a.pass").write_bytes(b"wrong\n")
    assert refusal(tmp_path) == "a.pass: does not open a.key"
    (tmp_path / "a.pass").write_bytes(b"a pass phrase\n")
    assert b"ENCRYPTED" not in read_pair(tmp_path, "a").key


@pytest.mark.parametrize(
    ("wanted", "warning"),
    [
        ({"start": -20, "days": 10}, "a.crt: expired 10 days ago"),
        ({"start": 5}, "a.crt: is not valid for another 5 days"),
        ({"usage": ExtendedKeyUsageOID.CLIENT_AUTH}, "a.crt: is not meant for servers"),
    ],
)
def test_what_clients_will_refuse_is_taken_with_a_warning(
    tmp_path: Path, wanted: dict[str, object], warning: str
) -> None:
    make("a.test", **wanted).write(tmp_path, "a")
    assert len(warnings(tmp_path)) == 1
    assert warnings(tmp_path)[0].startswith(warning)


def test_a_certificate_that_names_nothing_is_warned_of(tmp_path: Path) -> None:
    make().write(tmp_path, "a")
    assert warnings(tmp_path) == ["a.crt: its subjectAltName names no host: no client accepts it"]


def test_a_chain_whose_certificates_do_not_follow_one_another_is_warned_of(tmp_path: Path) -> None:
    root = make_authority("Root")
    between = make_authority("Between", above=make_authority("Middle", above=root))
    made = sign(Leaf(["a.test"]), between).write(tmp_path, "a")
    assert warnings(tmp_path) == []
    leaf, first, second, top = (
        block + b"-----END CERTIFICATE-----\n" for block in made.chain.split(b"-----END CERTIFICATE-----\n")[:-1]
    )
    (tmp_path / "a.crt").write_bytes(leaf + first + top + second)
    assert warnings(tmp_path) == ["a.crt: the chain's certificates do not follow one another"]
    (tmp_path / "a.crt").write_bytes(leaf + second + top)
    assert warnings(tmp_path) == ["a.crt: its issuer is not the next certificate of the chain"]


def test_a_certificate_of_a_public_ca_without_its_chain_is_warned_of(tmp_path: Path) -> None:
    url = "http://ca.test/issuer.der"
    make("a.test", issuer_url=url).write(tmp_path, "a")
    assert warnings(tmp_path) == [
        "a.crt: its chain is missing: most clients refuse it without the certificate of its issuer"
    ]
    sign(Leaf(["a.test"], issuer_url=url), make_authority("Issuer", above=AUTHORITY)).write(tmp_path, "a")
    assert warnings(tmp_path) == []


@pytest.mark.parametrize(
    ("days", "lifetime", "words"),
    [(13.6, 90, "expires in 14 days"), (15, 90, ""), (0.9, 6, "expires in 1 days"), (2, 6, "")],
)
def test_an_alarm_comes_long_before_the_end_and_not_at_every_renewal(
    tmp_path: Path, days: float, lifetime: float, words: str
) -> None:
    make("a.test", start=days - lifetime, days=lifetime).write(tmp_path, "a")
    assert warnings(tmp_path) == ([f"a.crt: {words}"] if words else [])


def test_pairs_of_one_issuer_share_the_chain_in_memory(tmp_path: Path) -> None:
    between = make_authority("Between", above=make_authority("Root"))
    for name in "ab":
        sign(Leaf([f"{name}.test"]), between).write(tmp_path, name)
    assert read_pair(tmp_path, "a").above is read_pair(tmp_path, "b").above


def test_a_wildcard_that_is_not_a_whole_leftmost_label_answers_nobody(tmp_path: Path) -> None:
    make("f*.a.test", "*.*.test", "a.*.test", "*.good.test").write(tmp_path, "a")
    assert read_pair(tmp_path, "a").hosts == ("*.good.test",)


DAMAGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(["crt", "key"]), damages=DAMAGES)
def test_a_damaged_file_is_refused_in_one_line_or_harmless(
    tmp_path: Path, suffix: str, damages: list[tuple[int, int, bytes]]
) -> None:
    MADE.write(tmp_path, "a")
    content = bytearray(MADE.chain if suffix == "crt" else MADE.key)
    for place, length, replacement in damages:
        place %= len(content)
        content[place : place + length] = replacement
    (tmp_path / f"a.{suffix}").write_bytes(content)
    outcome = ""
    try:
        read_pair(tmp_path, "a")
    except BadPair as bad:
        outcome = str(bad)
    assert outcome == "" or outcome.startswith(("a.crt: ", "a.key: ", "a.pass: "))
    assert outcome.isprintable()


def test_every_kind_of_key_of_the_makers_is_tried() -> None:
    assert set(KEY_MAKERS) == {"ecdsa", "p384", "secp256k1", "ed25519", "rsa", "rsa1024"}
