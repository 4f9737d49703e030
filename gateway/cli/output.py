"""How the command speaks: one clear line for what went wrong, never a traceback."""

import sys
from collections.abc import Sequence
from typing import NoReturn


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command."""
    print(message, file=sys.stderr)
    sys.exit(code)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """To standard output, the first row its head: columns as wide as they must be, nothing drawn."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
