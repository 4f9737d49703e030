"""Have a certificate issued by ACME (RFC 8555), domains proved by http-01.

It blocks for as long as the CA takes: call it in a thread. Needs the extra `acme`.
"""

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from gateway.config.settings import AcmeSettings
from gateway.tls.files import write_whole

_PATIENCE = datetime.timedelta(seconds=120)  # for the CA to look at every domain, and to sign
_NONCES = 8  # attempts at one request whose nonce is refused (RFC 8555, 6.5)
_USER_AGENT = "model-gateway"


class AcmeFailed(Exception):
    """No certificate was issued; the message is one line for a person."""


class _Network(client.ClientNetwork):
    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(_NONCES):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)


def obtain(settings: AcmeSettings, account_key: Path, answers: Path) -> tuple[bytes, bytes]:
    """A new private key and the chain issued for it, both in PEM.

    `account_key` is made, readable by its owner only, if there is none. What the CA asks for over http is written to
    the folder `answers` while it looks. Raises AcmeFailed.
    """
    try:
        ca = _connect(settings, account_key)
        key = ec.generate_private_key(ec.SECP256R1())
        order = ca.new_order(_request(key, settings.domains))
        with contextlib.ExitStack() as offered:
            for authorization in order.authorizations:
                if authorization.body.status == messages.STATUS_PENDING:
                    offered.enter_context(_answered(ca, authorization, answers))
            issued = ca.poll_and_finalize(order, datetime.datetime.now() + _PATIENCE)
    except (errors.Error, messages.Error, JoseError, requests.RequestException, OSError, ValueError) as error:
        raise AcmeFailed(_why(error)) from error
    return _pem(key), issued.fullchain_pem.encode()


def _connect(settings: AcmeSettings, account_key: Path) -> client.ClientV2:
    network = _Network(_account_key(account_key), alg=ES256, user_agent=_USER_AGENT)
    if settings.ca is not None:
        setattr(network, "verify_ssl", str(settings.ca))  # noqa: B010 - typed as bool, and given to `requests`
    ca = client.ClientV2(client.ClientV2.get_directory(settings.directory, network), network)
    wanted = messages.NewRegistration.from_data(email=settings.email, terms_of_service_agreed=True)
    try:
        ca.new_account(wanted)
    except errors.ConflictError as known:  # of an earlier order
        network.account = messages.RegistrationResource(body=messages.Registration(), uri=known.location)
    return ca


def _account_key(path: Path) -> JWKEC:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    key = JWKEC.load(path.read_bytes())
    if not isinstance(key, JWKEC):
        raise ValueError(f"{path} is not an ECDSA key")  # noqa: TRY004 - of a file, not of an argument
    return key


@contextlib.contextmanager
def _answered(ca: client.ClientV2, authorization: messages.AuthorizationResource, answers: Path) -> Iterator[None]:
    """Offer the answer, and tell the CA to look."""
    offered = [each for each in authorization.body.challenges if isinstance(each.chall, challenges.HTTP01)]
    if not offered:
        raise AcmeFailed(f"{authorization.body.identifier.value}: the CA offers no http-01")
    response, text = offered[0].response_and_validation(ca.net.key)
    answers.mkdir(parents=True, exist_ok=True)
    path = answers / offered[0].chall.encode("token")
    write_whole(path, text.encode(), 0o644)
    try:
        ca.answer_challenge(offered[0], response)
        yield
    finally:
        path.unlink(missing_ok=True)


def _request(key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _why(error: Exception) -> str:
    if isinstance(error, errors.ValidationError):
        found = (
            f"{each.body.identifier.value}: {challenge.error.detail}"
            for each in error.failed_authzrs
            for challenge in each.body.challenges
            if challenge.error is not None
        )
        return "; ".join(found)
    if isinstance(error, errors.TimeoutError):
        return "the CA did not decide in time"
    return " ".join(str(error).split())[:300] or type(error).__name__
