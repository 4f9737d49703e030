"""`gateway certs`, as it is typed."""

import asyncio
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli import app
from gateway.tls.store import CertificateStore
from tests.tls.makers import make
from tests.tls.servers import serving


@pytest.fixture
def certs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default folder, seen from where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "certs"


def gateway_certs(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["certs", *arguments])


def test_init_makes_what_is_needed_and_says_how_to_trust_it(certs: Path) -> None:
    done = gateway_certs("init")
    assert done.exit_code == 0
    assert done.stdout.startswith("Made certs/localhost.crt for localhost")
    assert "curl --cacert certs/dev-ca/ca.crt" in done.stdout
    assert (certs / "localhost.key").exists()


def test_init_again_makes_nothing_and_says_the_same_about_trust(certs: Path) -> None:
    first = gateway_certs("init")
    before = (certs / "localhost.crt").read_bytes()
    again = gateway_certs("init")
    assert again.exit_code == 0
    assert "Made" not in again.stdout
    assert first.stdout.endswith(again.stdout)
    assert (certs / "localhost.crt").read_bytes() == before


def test_init_leaves_certificates_of_others_alone(certs: Path) -> None:
    certs.mkdir()
    make("a.test").write(certs, "a")
    done = gateway_certs("init")
    assert (done.exit_code, done.stdout) == (0, "certs has certificates; nothing was made.\n")


def test_init_takes_another_folder(certs: Path) -> None:
    assert gateway_certs("init", "--folder", "elsewhere").exit_code == 0
    assert (certs.parent / "elsewhere" / "localhost.crt").exists()


def test_init_that_cannot_write_fails_in_one_line(certs: Path) -> None:
    certs.write_text("a file")
    done = gateway_certs("init")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "certs" in done.stderr


def test_issue_makes_a_certificate_that_list_shows(certs: Path) -> None:
    issued = gateway_certs("issue", "llama.test", "*.llama.test", "10.0.0.7", "--days", "40")
    assert issued.exit_code == 0
    assert issued.stdout == (
        "Made certs/llama.test.crt for llama.test, *.llama.test, 10.0.0.7, signed by certs/dev-ca/ca.crt.\n"
    )
    listed = gateway_certs("list")
    assert listed.exit_code == 0
    header, row = listed.stdout.splitlines()
    assert header.split() == ["NAME", "KEY", "DAYS", "LEFT", "HOSTS", "ISSUER"]
    assert row.split()[:5] == ["llama.test", "ECDSA", "P-256", "40", "llama.test,*.llama.test,10.0.0.7"]


def test_issue_refuses_what_is_no_name_and_what_is_not_ours(certs: Path) -> None:
    certs.mkdir()
    make("a.test").write(certs, "a.test")
    for name, message in (("../a", "neither a host name nor an IP address"), ("a.test", "was not signed by")):
        done = gateway_certs("issue", name)
        assert done.exit_code == 1
        assert message in done.stderr


@pytest.mark.parametrize(("warn_days", "code"), [("30", 0), ("60", 1)])
def test_list_fails_when_a_certificate_is_about_to_expire(certs: Path, warn_days: str, code: int) -> None:
    gateway_certs("issue", "a.test", "--days", "50")
    done = gateway_certs("list", "--warn-days", warn_days)
    assert done.exit_code == code
    assert done.stderr == ("warning: a.test.crt: expires in fewer than 60 days\n" if code else "")


def test_list_fails_for_what_is_bad_and_shows_what_is_good(certs: Path) -> None:
    gateway_certs("issue", "a.test")
    (certs / "b.crt").write_text("garbage")
    done = gateway_certs("list")
    assert done.exit_code == 1
    assert done.stderr == "error: b.crt: no PEM certificate in it\n"
    assert "a.test" in done.stdout


def test_list_of_an_expired_certificate_fails(certs: Path) -> None:
    certs.mkdir()
    make("a.test", start=-9, days=2).write(certs, "a")
    done = gateway_certs("list", "--warn-days", "0")
    assert done.exit_code == 1
    assert done.stderr == "warning: a.crt: expired 7 days ago\n"


def test_list_of_a_folder_that_is_not_there_fails(certs: Path) -> None:
    done = gateway_certs("list")
    assert done.exit_code == 1
    assert done.stderr == "error: certs: cannot be read (No such file or directory)\n"


def checked(certs: Path, *options: str, host: str = "localhost") -> Result:
    store = CertificateStore(certs)
    store.reload()

    async def main() -> Result:
        async with serving(store.server_context()) as port:
            return await asyncio.to_thread(gateway_certs, "check", f"{host}:{port}", *options)

    return asyncio.run(main())


TRUST = ("--ca", "certs/dev-ca/ca.crt")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "https://localhost"])
def test_check_shakes_hands_and_tells_what_was_shown(certs: Path, host: str) -> None:
    gateway_certs("init")
    done = checked(certs, *TRUST, host=host)
    assert done.exit_code == 0, done.stderr
    assert "TLSv1.3 TLS_" in done.stdout
    assert "certificate of localhost, *.localhost" in done.stdout
    assert "365 days left" in done.stdout


def test_check_of_an_untrusted_server_fails(certs: Path) -> None:
    gateway_certs("init")
    done = checked(certs)
    assert done.exit_code == 1
    assert "the certificate is not to be trusted" in done.stderr


def test_check_asks_for_another_name_than_it_connects_to(certs: Path) -> None:
    gateway_certs("init")
    gateway_certs("issue", "llama.test")
    done = checked(certs, *TRUST, "--name", "llama.test", host="127.0.0.1")
    assert done.exit_code == 0, done.stderr
    assert "certificate of llama.test" in done.stdout


def test_check_fails_when_too_few_days_are_left(certs: Path) -> None:
    gateway_certs("issue", "localhost", "--days", "20")
    done = checked(certs, *TRUST, "--warn-days", "30")
    assert done.exit_code == 1
    assert "20 days left" in done.stdout
    assert "fewer than 30 days are left" in done.stderr


@pytest.mark.parametrize("target", ["[::1", "host:99999", ":443", ""])
def test_check_of_what_is_no_address_is_a_wrong_command(target: str) -> None:
    assert gateway_certs("check", target).exit_code == 2


def test_check_of_nobody_fails() -> None:
    done = gateway_certs("check", "127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr == "127.0.0.1:1: no connection: Connection refused\n"
