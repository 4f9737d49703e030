"""How the command speaks: one clear line for what went wrong, never a traceback."""

import sys
from typing import NoReturn


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command."""
    print(message, file=sys.stderr)
    sys.exit(code)
