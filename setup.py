"""Compiles what a request runs through, by mypyc, while a wheel is built: `pip install .` or `scripts/compile`.

The same sources run as they are wherever that cannot be done (no C compiler, no headers of Python), and in an editable
install, where an edit must count at once.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Not here: what defines structs or models, or subclasses what is not compiled, and what is off the way of a request.
COMPILED = (
    "clock", "model",
    "core/body", "core/client", "core/deadlines", "core/dispatch", "core/endpoint", "core/headers", "core/limiter",
    "core/load", "core/openlist", "core/paths", "core/pool", "core/session", "core/split", "core/standing",
    "core/tally",
    "core/pick/connections", "core/pick/dice", "core/pick/latency", "core/pick/prequal", "core/pick/turns",
    "edge/authenticate", "edge/authorize", "edge/body", "edge/caller", "edge/enter", "edge/fields", "edge/in_flight",
    "edge/journal", "edge/match", "edge/observe", "edge/quota", "edge/rescue", "edge/rewrite", "edge/split",
    "edge/stick", "edge/throttle", "edge/tokens", "edge/transform",
    "server/accept", "server/answer", "server/bounds", "server/head", "server/lead", "server/protocol", "server/room",
    "server/taker", "server/target", "server/upload",
    "stores/leases", "stores/locked", "stores/recall", "stores/table",
    "upstream/call", "upstream/connection", "upstream/connections", "upstream/forward",
    "upstream/reply", "upstream/request",
)  # fmt: skip


class Optional(build_ext):
    """All of the modules, or none: half of them would not fit the others."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # whatever a compiler says, there is a wheel
            say(f"{error}")
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []


def extensions() -> list[Extension]:
    if not {"bdist_wheel", "build", "build_ext"} & set(sys.argv):
        return []
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        say(f"there is no C compiler ({compiler}); on Debian: apt-get install gcc")
        return []
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        say("Python's headers are missing; on Debian: apt-get install python3-dev")
        return []
    try:
        from mypyc.build import mypycify  # noqa: PLC0415  an editable install does without it
    except ImportError as error:
        say(f"mypyc is missing: {error}")
        return []
    # Others' types are left out: what is built is the same whatever is installed beside it.
    options = ["--config-file=", "--python-version=3.11", "--follow-imports=silent", "--ignore-missing-imports"]
    modules = [f"gateway/{name}.py" for name in COMPILED]
    return mypycify([*options, *modules], opt_level="2", debug_level="0")  # type: ignore[no-any-return]


def say(why: str) -> None:
    print(f"model-gateway: not compiled, the pure Python is used: {why}", file=sys.stderr)


setup(ext_modules=extensions(), cmdclass={"build_ext": Optional})
