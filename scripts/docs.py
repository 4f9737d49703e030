"""What is generated in docs/: see `scripts/docs`."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway.config.reference import schema, tables  # noqa: E402 - it is found by the line above


def outputs() -> dict[Path, str]:
    """Every generated file, and what must be in it."""
    template = (ROOT / "scripts/templates/configuration.md").read_text(encoding="utf-8")
    return {
        ROOT / "docs/configuration.md": template.replace("{{tables}}", tables()),
        ROOT / "docs/routes.schema.json": json.dumps(schema(), indent=2) + "\n",
    }


def main(arguments: list[str]) -> int:
    is_check = arguments == ["--check"]
    if arguments and not is_check:
        print("usage: scripts/docs [--check]", file=sys.stderr)
        return 2
    stale = 0
    for path, text in outputs().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if is_check:
            print(f"{path.relative_to(ROOT)} is stale: run scripts/docs", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
