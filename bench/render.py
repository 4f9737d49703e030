"""Configurations of the contestants: templates in peers/ whose @words@ are filled in."""

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
_WORD = re.compile(r"@([a-z_]+)@")


def render(template: str, words: Mapping[str, object]) -> str:
    """`template` with its words filled in; what is filled in may hold words itself. Raises KeyError for a word that is
    not among `words`."""
    while _WORD.search(template):
        template = _WORD.sub(lambda found: str(words[found[1]]), template)
    return template


def render_file(name: str, words: Mapping[str, object]) -> str:
    """The same for a file of this folder."""
    return render((FOLDER / name).read_text(encoding="utf-8"), words)


def models(count: int, endpoints: int, upstream_ports: tuple[int, int]) -> str:
    """The `models` of peers/gateway.yaml: `count` of them (one is `demo`), each with `endpoints` addresses.

    Addresses differ by a path's prefix, so that thousands of endpoints need no thousands of listeners; the gateway
    tells them apart as it tells hosts apart.
    """
    names = ["demo", *(f"model-{number}" for number in range(1, count))]
    return "\n".join(
        f"  {name}: {{versions: {{v1: {{endpoints: [{', '.join(_addresses(place, endpoints, upstream_ports))}]}}}}}}"
        for place, name in enumerate(names)
    )


def _addresses(place: int, count: int, ports: tuple[int, int]) -> list[str]:
    if count <= 2:
        return [f'"http://127.0.0.1:{port}"' for port in ports[:count]]
    return [f'"http://127.0.0.1:{ports[number % 2]}/m{place}/e{number}"' for number in range(count)]
