"""A hundred thousand keys: a change of one counts in every worker within a second."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from time import monotonic

import pytest

from gateway.stores.keyentry import Key
from gateway.stores.keyfile import KeyFile, parse
from gateway.stores.keys import Pepper, mint
from tests.e2e.harness import Gateway, material, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering

PEPPER = "a pepper of many characters"
COUNT = 100_000
OPTIONS = {"gateway": {"workers": 2}, "auth": {"failures": {"rate": None}}}  # the test asks before there is a key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def entry(name: str) -> tuple[Key, str]:
    key_id, secret = mint()
    digest = Pepper.of_text(PEPPER).digest(secret.encode()).hex()
    created = datetime.now(UTC).replace(microsecond=0)
    return Key(
        id=key_id, name=name, hash=digest, models=("iris", "llama*@fp8"), created=created, owner="a team"
    ), secret


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    folder = temporary_folder("many-keys-")
    source, _ = material()
    shutil.copytree(source / "certs", folder / "certs")
    keys = [entry(f"user-{number}")[0] for number in range(COUNT)]
    (folder / "keys.yaml").write_text(KeyFile(Pepper.of_text(PEPPER), PEPPER, keys).render())
    with (
        RawUpstream(answering(b"ok")) as upstream,
        Gateway({"iris": served([upstream.url])}, OPTIONS, folder=folder, wait=False) as gateway,
    ):
        gateway.wait_ready(60)
        yield gateway


def test_a_new_key_among_a_hundred_thousand_counts_in_every_worker_within_a_second(gateway: Gateway) -> None:
    file = gateway.folder / "keys.yaml"
    text = file.read_text()
    seconds = []
    with ExitStack() as stack:
        # Each connection is one worker's; that all of them are the same one's has a chance of 1 in 500.
        clients = [stack.enter_context(gateway.client(headers={})) for _ in range(10)]
        for number in range(8):  # the machine may be busy; the best of them is what the gateway takes
            key, secret = entry(f"new-{number}")
            line = KeyFile(Pepper.of_text(PEPPER), PEPPER, [key]).render().splitlines()[-1]
            lines = text.splitlines()
            lines.insert(len(lines) // 2 + number, line)
            text = "\n".join(lines) + "\n"
            fresh = file.with_suffix(".new")
            fresh.write_text(text)
            headers = {"authorization": f"Bearer {secret}"}
            assert {client.get("/models/iris/x", headers=headers).status_code for client in clients} == {401}
            fresh.replace(file)
            written = monotonic()
            for client in clients:
                until(lambda: client.get("/models/iris/x", headers=headers).status_code == 200, "the key", every=0.05)  # noqa: B023
            seconds.append(monotonic() - written)
    assert min(seconds) < 1.0, seconds
    assert len(parse(text, "keys.yaml", {}).keys) == COUNT + 8
