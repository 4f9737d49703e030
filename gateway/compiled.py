"""Which modules the command runs: compiled ones, where `scripts/compile` has made them from exactly these sources.

A checkout is installed as it stands, so that an edit counts at once; compiled modules lie apart from it, in
`.cache/compiled/FINGERPRINT`, and are found by what the sources are: one edit, another Python, and they are not used.
"""

import os
import sys
import sysconfig
from collections.abc import MutableMapping
from hashlib import blake2b
from pathlib import Path

import gateway

PACKAGE = Path(__file__).resolve().parent
VARIABLE = "GATEWAY_COMPILED"  # 0: never; 1: an error if they are missing; unset: where they are there
_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def fingerprint(package: Path = PACKAGE) -> str:
    """Changes with every source file, with what says how they are compiled, and with the Python. Takes 5 ms."""
    digest = blake2b(f"{sys.version} {_SUFFIX}".encode(), digest_size=10)
    for path in (*sorted(package.rglob("*.py")), package.parent / "setup.py"):
        content = path.read_bytes() if path.exists() else b""
        digest.update(b"%b %d " % (str(path.relative_to(package.parent)).encode(), len(content)))
        digest.update(content)
    return digest.hexdigest()


def folder(package: Path = PACKAGE) -> Path:
    """Where the compiled package of these sources is, or would be."""
    return package.parent / ".cache" / "compiled" / fingerprint(package)


def use(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have every module that is imported from now on come from there. Raises SystemExit."""
    wish = environ.get(VARIABLE, "")
    if wish == "0" or is_in_use():
        return
    place = folder()
    if (place / "gateway" / "__init__.py").is_file():
        gateway.__path__ = [str(place / "gateway")]
        sys.path.append(str(place))  # the library that all of the modules share lies beside the package
    elif wish == "1":
        raise SystemExit(f"{VARIABLE}=1, and there are no compiled modules of these sources: run scripts/compile")


def is_in_use() -> bool:
    """Whether this process runs compiled modules; in a package that was installed they lie beside the sources."""
    return any((Path(place) / "server" / f"protocol{_SUFFIX}").is_file() for place in gateway.__path__)
