"""sslyze judges the public entry point by Mozilla's guideline 6.0, intermediate, and by what it knows itself as modern:
versions, suites, groups, certificates, and the known attacks.

The first run installs sslyze into .cache/sslyze (ten seconds); later runs find it there.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Gateway, temporary_folder
from tests.tls.makers import AUTHORITY, make

PROFILE = ROOT / "tests" / "tls" / "mozilla_6.0_intermediate.json"
REQUIREMENTS = ROOT / "tests" / "e2e" / "sslyze" / "requirements.txt"
CACHE = ROOT / ".cache" / "sslyze"

pytestmark = pytest.mark.timeout(300)  # the first run downloads


@pytest.fixture(scope="module")
def sslyze() -> Path:
    """The command, in its virtual environment, which is made if it is absent or outdated."""
    stamp = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    folder, done = CACHE / "venv", CACHE / "installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != stamp:
            done.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [
                str(folder / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "-q",
                "--no-compile",
                "--disable-pip-version-check",
            ]
            subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
            done.write_text(stamp)
    return folder / "bin" / "sslyze"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway({}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def report(sslyze: Path, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sslyze")
    return judged(sslyze, gateway, folder, "--custom_tls_config", PROFILE, "--certinfo_ca_file", gateway.ca_file)


def judged(sslyze: Path, gateway: Gateway, folder: Path, *options: str | Path) -> dict[str, Any]:
    """What sslyze found, its verdict as `verdict`."""
    file = folder / "report.json"
    options = (*options, "--json_out", file)
    command = [str(part) for part in (sslyze, *options, f"localhost:{gateway.port}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=file.parent)
    assert file.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_text())["server_scan_results"][0]["scan_result"]
    return found | {"verdict": done.stdout}


def suites(report: dict[str, Any], version: str) -> set[str]:
    accepted = report[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
    return {suite["cipher_suite"]["name"] for suite in accepted}


def test_sslyze_finds_the_entry_point_compliant_with_mozillas_guideline(report: dict[str, Any]) -> None:
    assert "OK - Compliant" in report["verdict"], report["verdict"]


def test_all_of_the_guideline_is_spoken_that_the_certificate_allows(report: dict[str, Any]) -> None:
    profile = json.loads(PROFILE.read_text())
    assert suites(report, "tls_1_3") == set(profile["ciphersuites"])
    assert suites(report, "tls_1_2") == {name for name in profile["ciphers"]["iana"] if "ECDSA" in name}
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert suites(report, version) == set()


def test_the_groups_are_exactly_those_of_the_guideline_that_sslyze_can_try(report: dict[str, Any]) -> None:
    curves = report["elliptic_curves"]["result"]
    assert {curve["name"] for curve in curves["supported_curves"]} == {"X25519", "secp256r1", "secp384r1"}
    assert "X448" in {curve["name"] for curve in curves["rejected_curves"]}


def test_clients_cannot_renegotiate(report: dict[str, Any]) -> None:
    renegotiation = report["session_renegotiation"]["result"]
    assert renegotiation["supports_secure_renegotiation"]
    assert not renegotiation["is_vulnerable_to_client_renegotiation_dos"]


def test_the_profile_modern_is_what_mozilla_calls_so(sslyze: Path, tmp_path: Path) -> None:
    folder = temporary_folder("modern-")
    (folder / "certs").mkdir()
    made = make("localhost")
    made.write(folder / "certs", "localhost")
    (folder / "ca.pem").write_bytes(AUTHORITY.pem)
    with Gateway({}, {"tls": {"profile": "modern"}}, folder=folder) as gateway:
        options = ("--mozilla_config", "modern", "--certinfo_ca_file", folder / "ca.pem")
        found = judged(sslyze, gateway, tmp_path, *options)
    assert "OK - Compliant" in found["verdict"], found["verdict"]
    assert suites(found, "tls_1_3") == {
        "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
    }  # fmt: skip
    assert suites(found, "tls_1_2") == set()
