"""testssl.sh judges the public entry point: what is spoken, HSTS, the known attacks, and, where its version grades
(3.2 and later), the grade. It asks nobody but the gateway: no DNS, nothing of its own to fetch.

The default run leaves out what takes minutes: every cipher by itself, the simulated clients, and the grade, which needs
both.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Gateway

pytestmark = [
    pytest.mark.skipif(not shutil.which("testssl"), reason="Debian package testssl.sh is missing"),
    pytest.mark.timeout(600),
]

COMMON = ["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1"]
QUICK = ["--protocols", "--headers", "--vulnerable"]
# Findings that are not about the gateway, each with its reason.
EXPECTED = {
    "engine_problem",  # of the OpenSSL that testssl itself uses
    "security_headers",  # of pages for browsers; here are none
    "cipher_order",  # the client chooses, among suites that are all safe: the guideline's choice
    "cert_revocation",  # the development CA keeps no list
    "cert_chain_of_trust",  # before 3.2, a CA of one's own is not believed with OpenSSL 3
    "DNS_CAArecord",  # localhost has none
    "overall_grade", "final_score",  # looked at by themselves
}  # fmt: skip
GOOD = {"OK", "INFO", "LOW", "WARN"}  # WARN: what it could not try
Findings = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway({}, {"tls": {"hsts": {"max_age": "365d"}}}) as gateway:
        yield gateway


def judged(gateway: Gateway, folder: Path, *options: str) -> Findings:
    """What was found: severity and finding by id."""
    file = folder / "found.json"
    where = ["--add-ca", str(gateway.ca_file), "--jsonfile", str(file), f"localhost:{gateway.port}"]
    openssl = ["--openssl", shutil.which("openssl") or "openssl"]
    patience = {"HEARTBLEED_MAX_WAITSOCK": "2", "CCS_MAX_WAITSOCK": "2"}  # seconds, for an answer that must not come
    done = subprocess.run(
        ["testssl", *COMMON, *openssl, *options, *where],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **patience},
    )  # fmt: skip
    assert file.exists(), done.stdout + done.stderr
    return {each["id"]: (each["severity"], each["finding"]) for each in json.loads(file.read_text())}


def bad(found: Findings) -> dict[str, tuple[str, str]]:
    return {key: value for key, value in found.items() if value[0] not in GOOD and key not in EXPECTED}


def test_nothing_old_is_spoken_nothing_is_vulnerable_and_browsers_are_bound_to_https(
    gateway: Gateway, tmp_path: Path
) -> None:
    found = judged(gateway, tmp_path, *QUICK)
    assert bad(found) == {}
    assert {key: found[key][1].split(" (")[0] for key in ("SSLv2", "SSLv3", "TLS1", "TLS1_1")} == {
        "SSLv2": "not offered", "SSLv3": "not offered", "TLS1": "not offered", "TLS1_1": "not offered",
    }  # fmt: skip
    assert found["TLS1_2"][1].startswith("offered")
    assert found["TLS1_3"][1].startswith("offered")
    assert found["HSTS_time"][0] == "OK"
    attacks = {key for key in found if "cve" in key.lower() or key in ("heartbleed", "CCS", "ticketbleed", "ROBOT",
               "secure_client_renego", "CRIME_TLS", "POODLE_SSL", "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST",
               "LUCKY13", "RC4")}  # fmt: skip
    assert len(attacks) >= 14
    assert {key: found[key] for key in attacks if found[key][0] not in GOOD} == {}


@pytest.mark.slow
def test_the_grade_is_a_plus(gateway: Gateway, tmp_path: Path) -> None:
    found = judged(gateway, tmp_path)
    assert bad(found) == {}
    if "overall_grade" in found:  # testssl.sh 3.2 and later
        assert found["overall_grade"][1] == "A+"
        assert int(found["final_score"][1]) >= 96
