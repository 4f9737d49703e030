"""htpasswd files: which hashes are taken, what is said of the others, and that a password is compared whole."""

from pathlib import Path

import argon2
import bcrypt
import pytest

from gateway.stores.htpasswd import HtpasswdError, decoys, is_password, parse, read

BCRYPT = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
ARGON2 = {
    kind: argon2.PasswordHasher(1, 64, 1, type=getattr(argon2.Type, kind)).hash("open sesame")
    for kind in ("ID", "I", "D")
}
HASHES = [BCRYPT, BCRYPT.replace("$2b$", "$2y$"), BCRYPT.replace("$2b$", "$2a$"), *ARGON2.values()]


@pytest.mark.parametrize("hashed", HASHES, ids=lambda text: text.split("$")[1])
def test_the_password_of_a_slow_hash_is_known_and_no_other(hashed: str) -> None:
    assert parse(f"alice:{hashed}\n", "f") == {"alice": hashed}
    assert is_password(hashed, b"open sesame")
    for other in (
        b"",
        b"open sesam",
        b"open sesame ",
        b"Open sesame",
        b"open sesame\x00",
        b"open\x00sesame",
        b"x" * 80,
    ):
        assert not is_password(hashed, other)


def test_a_password_is_not_cut_off_where_bcrypt_stops_reading() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert is_password(hashed, b"x" * 72)
    assert not is_password(hashed, b"x" * 73)
    nothing = bcrypt.hashpw(b"", bcrypt.gensalt(4)).decode()
    assert not is_password(nothing, b"x" * 73)
    assert is_password(ARGON2["ID"].replace("x", "x"), b"open sesame")


def test_comments_empty_lines_and_other_line_ends_are_read_over() -> None:
    text = f"# users\r\n\r\nalice:{BCRYPT}\r\n  bob:{BCRYPT}  \n#carol:{BCRYPT}"
    assert list(parse(text, "f")) == ["alice", "bob"]


BROKEN = {
    "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=": "has no hash by bcrypt",
    "alice:$apr1$salt$qQ1dSc1z4dL9G0ZbGbhQc/": "has no hash by bcrypt",
    "alice:password": "has no hash by bcrypt",
    "alice": "has no hash by bcrypt",
    "alice:": "has no hash by bcrypt",
    f":{BCRYPT}": "name is empty",
    f"al\x07ice:{BCRYPT}": "cannot be printed",
    f"{'a' * 256}:{BCRYPT}": "too long",
    f"alice:{BCRYPT[:-1]}": "has no hash by bcrypt",
    f"alice:{BCRYPT}x": "has no hash by bcrypt",
    f"alice:$2b$31${BCRYPT[7:]}": "costs so much",
    f"alice:$2b$03${BCRYPT[7:]}": "so little",
    "alice:$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g": "costs so much",
    "alice:$argon2id$v=19$m=65536,t=1000,p=1$c2FsdHNhbHQ$aGFzaGhhc2g": "costs so much",
    "alice:$argon2id$v=19$m=65536,t=0,p=1$c2FsdHNhbHQ$aGFzaGhhc2g": "so little",
    "alice:$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g": "has no hash by bcrypt",
}


@pytest.mark.parametrize("line", BROKEN, ids=map(str, range(len(BROKEN))))
def test_what_cannot_be_a_user_is_reported_with_its_line_and_without_its_hash(line: str) -> None:
    with pytest.raises(HtpasswdError) as caught:
        parse(f"bob:{BCRYPT}\n{line}\n", "users")
    assert str(caught.value).startswith("users:2: ")
    assert BROKEN[line] in str(caught.value)
    hashed = line.partition(":")[2]
    assert not hashed or hashed not in str(caught.value)


def test_all_mistakes_are_reported_at_once_but_not_a_thousand() -> None:
    with pytest.raises(HtpasswdError) as caught:
        parse("\n".join(f"u{n}:x" for n in range(1000)), "f")
    assert len(str(caught.value).splitlines()) == 20


def test_a_user_is_there_once() -> None:
    with pytest.raises(HtpasswdError, match="f:2: 'alice' is there twice"):
        parse(f"alice:{BCRYPT}\nalice:{ARGON2['ID']}\n", "f")


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b"\xff\xfe")
    with pytest.raises(HtpasswdError, match="is not UTF-8"):
        read(tmp_path / "users")


def test_decoys_are_hashes_like_those_of_the_file_and_can_be_checked() -> None:
    assert set(decoys({"a": BCRYPT, "b": ARGON2["ID"]})) == {BCRYPT, ARGON2["ID"]}
    assert len(decoys({str(n): BCRYPT for n in range(100_000)})) < 600
    (only,) = decoys({})
    assert not is_password(only, b"")
