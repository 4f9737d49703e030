"""What `gateway keys` does to the file: whole, under a lock, readable only to those who could read it."""

import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.control import keys as editor
from gateway.control.keys import KeyEditError, KeyRing, Wish, editing, find, load_keys
from gateway.stores.keyfile import KeyFile, KeyFileError, read
from gateway.stores.keys import Pepper, mint

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
DAY = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def edit(path: Path, now: float = NOW, environ: dict[str, str] | None = None):
    return editing(path, environ or {}, clock=lambda: now)


def make(path: Path, name: str = "alice", **fields: object) -> str:
    with edit(path) as ring:
        return ring.create(Wish(name, ["iris"], **fields))[1]  # type: ignore[arg-type]


def found(path: Path, secret: str, now: float = NOW) -> str | None:
    principal = load_keys(path, {}).find(secret.encode(), now)
    return principal.name if principal else None


def test_a_key_that_was_made_is_found_by_a_gateway(path: Path) -> None:
    secret = make(path)
    assert found(path, secret) == "alice"
    assert secret not in path.read_text()
    assert secret[14:] not in path.read_text()


def test_a_second_key_leaves_the_first_as_it_was(path: Path) -> None:
    first = make(path)
    line = path.read_text().splitlines()[-1]
    second = make(path, "bob")
    assert path.read_text().splitlines()[-2] == line
    assert (found(path, first), found(path, second)) == ("alice", "bob")


def test_a_key_with_a_lifetime_expires(path: Path) -> None:
    secret = make(path, lifetime=DAY)
    assert found(path, secret, NOW + DAY - 1) == "alice"
    assert found(path, secret, NOW + DAY) is None


def test_a_revoked_key_is_not_found_and_stays_in_the_file(path: Path) -> None:
    secret = make(path)
    with edit(path, NOW + 5) as ring:
        ring.revoke("alice")
    assert found(path, secret) is None
    (key,) = read(path, {}).keys
    assert key.revoked == datetime.fromtimestamp(NOW + 5, UTC)


def test_a_revoked_key_is_neither_revoked_again_nor_rotated_back_to_life(path: Path) -> None:
    make(path)
    with edit(path) as ring:
        revoked = ring.revoke("alice")
    with edit(path, NOW + 5) as ring:
        for change in (lambda: ring.revoke(revoked.id), lambda: ring.rotate(revoked.id, DAY)):
            with pytest.raises(KeyEditError, match="is revoked already"):
                change()
    assert list(read(path, {}).keys) == [revoked]


def test_a_rotated_key_is_accepted_beside_its_successor_until_the_grace_ends(path: Path) -> None:
    old = make(path)
    with edit(path) as ring:
        key, new = ring.rotate("alice", DAY)
    assert new[:14] == old[:14] == f"gw_{key.id}_"
    assert new != old
    assert (found(path, old, NOW + DAY - 1), found(path, new, NOW + DAY - 1)) == ("alice", "alice")
    assert (found(path, old, NOW + DAY), found(path, new, NOW + DAY)) == (None, "alice")


def test_a_key_rotated_without_grace_or_revoked_while_rotating_is_gone_at_once(path: Path) -> None:
    first = make(path)
    with edit(path) as ring:
        second = ring.rotate("alice", 0)[1]
    assert (found(path, first), found(path, second)) == (None, "alice")
    with edit(path) as ring:
        third = ring.rotate("alice", DAY)[1]
        ring.revoke("alice")
    assert [found(path, secret) for secret in (first, second, third)] == [None, None, None]


def test_a_second_rotation_keeps_what_is_still_in_its_grace(path: Path) -> None:
    first = make(path)
    with edit(path) as ring:
        second = ring.rotate("alice", DAY)[1]
    with edit(path, NOW + DAY / 2) as ring:
        third = ring.rotate("alice", DAY)[1]
    with edit(path, NOW + DAY) as ring:
        ring.rotate("alice", DAY)
    assert [found(path, secret, NOW + DAY) for secret in (first, second, third)] == [None, "alice", "alice"]
    assert len(read(path, {}).keys[0].previous) == 2


def test_an_expired_key_is_not_rotated_back_to_life(path: Path) -> None:
    make(path, lifetime=DAY)
    with pytest.raises(KeyEditError, match="has expired"), edit(path, NOW + DAY) as ring:
        ring.rotate("alice", DAY)


def test_a_foreign_key_is_accepted_and_one_of_ours_keeps_its_id(path: Path) -> None:
    identity, ours = mint()
    with edit(path) as ring:
        ring.adopt(Wish("bob", ["*"], lifetime=DAY), "sk-0123456789abcdefghij")
        ring.adopt(Wish("carol", ["*"]), ours)
    assert found(path, "sk-0123456789abcdefghij") == "bob"
    assert found(path, "sk-0123456789abcdefghij", NOW + DAY) is None
    assert found(path, ours) == "carol"
    assert read(path, {}).keys[1].id == identity


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("x" * 19, "20 to 256"),
        ("x" * 257, "20 to 256"),
        ("gw_" + "0" * 60, "check does not fit"),
        ("a key with spaces in it", "no spaces"),
        ("schlüssel-mit-umlauten", "ASCII"),
        ("aaaaaaaaa.bbbbbbbbb.ccccccc", "two dots"),
    ],
)
def test_what_could_never_be_presented_is_not_imported(path: Path, secret: str, said: str) -> None:
    with pytest.raises(KeyEditError, match=said), edit(path) as ring:
        ring.adopt(Wish("bob", ["*"]), secret)
    assert not path.exists()


def test_names_are_unique_among_keys_that_are_not_revoked(path: Path) -> None:
    make(path)
    with pytest.raises(KeyEditError, match="name 'alice' already"):
        make(path)
    with edit(path) as ring:
        ring.revoke("alice")
        ring.create(Wish("alice", ["iris"]))
    assert [key.state(NOW) for key in read(path, {}).keys] == ["revoked", "active"]


def test_a_key_is_meant_by_its_id_or_by_a_name_that_says_which(path: Path) -> None:
    make(path)
    with edit(path) as ring:
        revoked = ring.revoke("alice")
        active = ring.create(Wish("alice", ["iris"]))[0]
    keys = read(path, {}).keys
    assert find(keys, "alice") == active
    assert find(keys, revoked.id) == revoked
    with pytest.raises(KeyEditError, match="2 keys have the name 'alice'"):
        find([*keys, active], "alice")
    with pytest.raises(KeyEditError, match="no key has"):
        find(keys, "bob")


@pytest.mark.parametrize("models", [[], [""], ["a\nb"]])
def test_nothing_is_written_that_would_not_load(path: Path, models: list[str]) -> None:
    make(path)
    before = path.read_bytes()
    with (
        pytest.raises(KeyEditError, match=r"^the key cannot be kept: it (is wrong: Expected|has characters)"),
        edit(path) as ring,
    ):
        ring.create(Wish("bob", models))
    assert path.read_bytes() == before


def test_a_broken_file_is_never_overwritten(path: Path) -> None:
    path.write_text("version: 1\nkeys:\n- half of a line")
    with pytest.raises(KeyFileError, match="needs `pepper`"):
        make(path)
    assert path.read_text() == "version: 1\nkeys:\n- half of a line"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editor.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        make(path, "bob")
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["keys.yaml", "keys.yaml.lock"]


def test_nothing_is_written_when_nothing_changed(path: Path) -> None:
    make(path)
    before = path.stat().st_ino
    with edit(path) as ring:
        assert ring.keys
    assert path.stat().st_ino == before


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("before", "after"), [(0o640, 0o640), (0o644, 0o640), (0o400, 0o600), (0o660, 0o660)])
def test_a_file_stays_readable_to_its_group_and_never_to_all(path: Path, before: int, after: int) -> None:
    make(path)
    path.chmod(before)
    make(path, "bob")
    assert stat.S_IMODE(path.stat().st_mode) == after


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    secret = make(link)
    assert link.is_symlink()
    assert found(path, secret) == "alice"


def test_the_pepper_of_the_environment_is_not_written_down(path: Path) -> None:
    environ = {"GATEWAY_KEYS_PEPPER": "a pepper that nobody writes down"}
    with edit(path, environ=environ) as ring:
        secret = ring.create(Wish("alice", ["iris"]))[1]
    assert "\npepper:" not in path.read_text()
    assert load_keys(path, environ).find(secret.encode(), NOW) is not None
    with pytest.raises(KeyFileError, match="needs `pepper`"):
        make(path, "bob")
    with pytest.raises(KeyFileError, match="not the one"), edit(path, environ={"GATEWAY_KEYS_PEPPER": "x" * 32}):
        pytest.fail("a file with other hashes was opened")


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=make, args=(path, f"user {number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read(path, {}).keys) == sorted(f"user {number}" for number in range(20))


def test_a_lock_that_is_never_released_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "LOCK_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match="locked by another command"), edit(path):
        make(path)


def test_the_lock_of_a_command_that_died_holds_nobody(path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from gateway.control.keys import editing\n"
        "with editing(pathlib.Path(sys.argv[1])):\n"
        "    os._exit(9)\n"
    )
    root = Path(editor.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    assert done.returncode == 9
    assert found(path, make(path)) == "alice"


def test_no_key_is_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_keys(path, {})


def test_ten_thousand_keys_are_imported_in_a_moment(path: Path) -> None:
    ring = KeyRing(KeyFile(Pepper.of_text("x" * 16), "x" * 16), datetime.fromtimestamp(NOW, UTC))
    started = os.times().user
    for number in range(10_000):
        ring.adopt(Wish(f"user {number}", ["*"]), f"sk-{number:020d}")
    assert os.times().user - started < 5
    assert len(ring.keys) == 10_000


def test_a_revoked_key_is_told_by_its_name_until_another_one_has_it(path: Path) -> None:
    make(path, "alice")
    with editing(path, {}) as ring:
        first = ring.revoke("alice")
    assert find(read(path, {}).keys, "alice").id == first.id
    with pytest.raises(KeyEditError, match=r"^alice is revoked already$"), editing(path, {}) as ring:
        ring.revoke("alice")
    with editing(path, {}) as ring:
        second, _ = ring.create(Wish("alice", ["*"]))
        assert find(ring.keys, "alice").id == second.id
        ring.revoke("alice")
        with pytest.raises(KeyEditError, match=r"^2 keys have the name 'alice'"):
            find(ring.keys, "alice")


def test_no_earlier_secret_outlives_the_grace_of_a_later_rotation(path: Path) -> None:
    first = make(path)
    with edit(path) as ring:
        _, second = ring.rotate("alice", 7 * DAY)
    with edit(path) as ring:
        _, third = ring.rotate("alice", 60)
    assert [found(path, key, NOW + 59) for key in (first, second, third)] == ["alice"] * 3
    assert [found(path, key, NOW + 61) for key in (first, second, third)] == [None, None, "alice"]
    with edit(path) as ring:
        _, fourth = ring.rotate("alice", 0)
    assert [found(path, key) for key in (first, second, third, fourth)] == [None, None, None, "alice"]
