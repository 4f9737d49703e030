"""htpasswd: the file that users and their hashed passwords live in, a line `name:hash` each; `#` begins a comment.

Only hashes that are made to be slow are taken: bcrypt (`htpasswd -B`) and argon2. What else htpasswd can write (MD5,
SHA-1, crypt, plain text) is an error, since whoever got the file could try billions of passwords a second.
"""

import pkgutil
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

MOST_USERS = 100_000
_LONGEST_FILE = 2**24  # bytes
_LONGEST_NAME = 255
_MOST_PROBLEMS = 20  # reported at once
LONGEST_PASSWORD = 1024  # bytes
_LONGEST_BCRYPT = 72  # bytes: bcrypt reads no more, and a password that is cut off would be another one

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
# What one attempt may cost: about a second. A file that asks for more would let a few attempts occupy the machine.
_BCRYPT_COSTS = range(4, 15)  # powers of two
_ARGON2_MEMORY = 256 * 1024  # KiB
_ARGON2_WORK = 4 * _ARGON2_MEMORY  # KiB written in all: memory x time


class HtpasswdError(Exception):
    """A file that cannot be used. Its text is one line for each problem, `file:line: what`."""


def read(path: Path) -> dict[str, str]:
    """The hashes by user. Raises HtpasswdError; OSError if it cannot be read."""
    with path.open("rb") as file:
        text = file.read(_LONGEST_FILE + 1)
    if len(text) > _LONGEST_FILE:
        raise HtpasswdError(f"{path}:1: longer than {_LONGEST_FILE} bytes")
    try:
        return parse(text.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise HtpasswdError(f"{path}:1: is not UTF-8: {error.reason} at byte {error.start}") from error


def parse(text: str, name: str) -> dict[str, str]:
    """`name` is what errors call the file. Raises HtpasswdError with everything that is wrong, and no hash."""
    users: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip("\r \t")
        if not line or line.startswith("#"):
            continue
        user, _, hashed = line.partition(":")
        why = _why_not(user, hashed, users)
        if why:
            problems.append(f"{name}:{number}: {why}")
        users[user] = hashed
    if len(users) > MOST_USERS:
        problems.append(f"{name}:1: more than {MOST_USERS} users")
    if problems:
        raise HtpasswdError("\n".join(problems[:_MOST_PROBLEMS]))
    return users


def _why_not(user: str, hashed: str, known: Mapping[str, str]) -> str:
    if not user or len(user) > _LONGEST_NAME or not user.isprintable() or user != user.strip():
        return "a user's name is empty, too long, or has characters that cannot be printed"
    if user in known:
        return f"{user!r} is there twice"
    if bcrypt := _BCRYPT.fullmatch(hashed):
        package, is_fair = "bcrypt", int(bcrypt[1]) in _BCRYPT_COSTS
    elif argon2 := _ARGON2.fullmatch(hashed):
        memory, time, lanes = (int(number) for number in argon2.groups())
        package = "argon2"
        is_fair = 8 * lanes <= memory <= _ARGON2_MEMORY and 0 < memory * time <= _ARGON2_WORK and lanes > 0
    else:
        return f"{user!r} has no hash by bcrypt ($2y$) or argon2 ($argon2id$); make one with `htpasswd -B`"
    if not is_fair:
        return f"{user!r}: a hash that costs so much, or so little, is not taken"
    if find_spec(package) is None:
        return f"needs the package {package}: install model-gateway[basic]"
    return ""


def is_password(hashed: str, password: bytes) -> bool:
    """Whether this is the password of a hash that `parse` took. Takes as long as the hash was made to take, and leaves
    the interpreter to others meanwhile."""
    if hashed.startswith("$2"):
        # All work is done for the wrong length, too: the time tells nothing about who exists.
        fits = len(password) <= _LONGEST_BCRYPT and b"\x00" not in password
        checkpw = pkgutil.resolve_name("bcrypt:checkpw")
        return bool(checkpw(password if fits else b"", hashed.encode()) and fits)
    kind = pkgutil.resolve_name("argon2.low_level:Type")
    verify = pkgutil.resolve_name("argon2.low_level:verify_secret")
    mismatch = pkgutil.resolve_name("argon2.exceptions:VerificationError")
    variety = {"argon2id": kind.ID, "argon2i": kind.I, "argon2d": kind.D}[hashed.split("$")[1]]
    try:
        return bool(verify(hashed.encode(), password, variety))
    except mismatch:
        return False


def decoys(users: Mapping[str, str]) -> tuple[str, ...]:
    """Hashes to check for a user that does not exist, in the shares in which the file has them: such an attempt takes
    the time that one at somebody's password takes."""
    hashes = tuple(users.values())
    return hashes[:: max(1, len(hashes) // 256)] or ("$2b$10$" + "." * 22 + "A" * 31,)
