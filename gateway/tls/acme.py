"""Have a certificate issued by ACME (RFC 8555), domains proved by http-01 or tls-alpn-01 (RFC 8737), and ask when it is
to be renewed (RFC 9773).

It blocks for as long as the CA takes: call it in a thread. Needs the extra `acme`.
"""

import base64
import contextlib
import datetime
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.json_util import field
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from gateway.config.settings import AcmeSettings
from gateway.core.renewal import ASK_AGAIN, Suggestion
from gateway.tls.files import write_whole
from gateway.tls.validation import write_answer

_FAILURES = (errors.Error, messages.Error, JoseError, requests.RequestException, OSError, ValueError)
_PATIENCE = datetime.timedelta(seconds=120)  # for the CA to look at every domain, and to sign
_NONCES = 8  # attempts at one request whose nonce is refused (RFC 8555, 6.5)
_USER_AGENT = "model-gateway"
_ASK_BOUNDS = 60.0, 86400.0  # of what it may say (4.3.2)


class AcmeFailed(Exception):
    """No certificate was issued; the message is one line for a person."""


@challenges.ChallengeResponse.register
class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    typ = "tls-alpn-01"


@challenges.Challenge.register
class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """What the library has no more, since certbot never used it."""

    response_cls = _TlsAlpnResponse
    typ = response_cls.typ

    def validation(self, account_key: JWK, **_: Any) -> bytes:
        return hashlib.sha256(self.key_authorization(account_key).encode()).digest()


class _Replacing(messages.NewOrder):
    """An order that says which certificate it is to replace (RFC 9773, 5); CAs count it against no limit."""

    replaces: str = field("replaces", omitempty=True)


class _Network(client.ClientNetwork):
    replaces = ""

    def post(self, url: str, obj: Any, *args: Any, **kwargs: Any) -> requests.Response:
        if self.replaces and isinstance(obj, messages.NewOrder):
            obj = _Replacing(identifiers=obj.identifiers, replaces=self.replaces)
        for _ in range(_NONCES):
            try:
                return self._post_once(url, obj, *args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(url, obj, *args, **kwargs)


def suggested(settings: AcmeSettings, chain: bytes) -> Suggestion:
    """When the CA would have the first certificate of `chain` (PEM) renewed. Raises AcmeFailed."""
    try:
        network = _network(settings)
        directory = client.ClientV2.get_directory(settings.directory, network)
        if not _speaks_of_renewal(directory):
            return Suggestion(0.0, 0.0, ASK_AGAIN)
        answer = network.get(f"{directory['renewalInfo']}/{_identify(chain)}", content_type="application/json")
        window = messages.RenewalInfo.from_json(answer.json()).suggested_window
        again = (client.ClientV2.retry_after(answer, ASK_AGAIN) - datetime.datetime.now()).total_seconds()
        explanation = str(answer.json().get("explanationURL", ""))[:300]
        start, end = window.start.timestamp(), window.end.timestamp()
        if end <= start:  # RFC 9773, 4.2: as if it had not answered
            raise AcmeFailed("its window ends before it begins")
    except (*_FAILURES, TypeError, AttributeError) as error:  # the two of an answer in another shape
        raise AcmeFailed(_why(error)) from error
    return Suggestion(start, end, min(max(again, _ASK_BOUNDS[0]), _ASK_BOUNDS[1]), explanation)


def _speaks_of_renewal(directory: messages.Directory) -> bool:
    return "renewalInfo" in directory.to_partial_json()


def _identify(chain: bytes) -> str:
    """RFC 9773, 4.1. Raises ValueError for a certificate that cannot be asked about."""
    leaf = x509.load_pem_x509_certificate(chain)
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        issuer = None
    if issuer is None:
        raise ValueError("the certificate does not say which key signed it")
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")  # with room for the sign
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (issuer, serial))


def obtain(settings: AcmeSettings, account_key: Path, answers: Path, before: bytes = b"") -> tuple[bytes, bytes]:
    """A new private key and the chain issued for it, both in PEM.

    `account_key` is made, readable by its owner only, if there is none. What the CA looks for is written to the folder
    `answers` while it does. `before` is the chain that the new one replaces. Raises AcmeFailed.
    """
    try:
        ca = _connect(settings, account_key)
        key = ec.generate_private_key(ec.SECP256R1())
        order = _order(ca, _request(key, settings.domains), before)
        with contextlib.ExitStack() as offered:
            for authorization in order.authorizations:
                if authorization.body.status == messages.STATUS_PENDING:
                    offered.enter_context(_answered(ca, authorization, settings.challenge, answers))
            issued = ca.poll_and_finalize(order, datetime.datetime.now() + _PATIENCE)
    except _FAILURES as error:
        raise AcmeFailed(_why(error)) from error
    return _pem(key), issued.fullchain_pem.encode()


def _order(ca: client.ClientV2, request: bytes, before: bytes) -> messages.OrderResource:
    network = ca.net
    if isinstance(network, _Network) and before and _speaks_of_renewal(ca.directory):
        try:
            network.replaces = _identify(before)
            return ca.new_order(request)
        except (messages.Error, ValueError):  # not one of its own, or replaced already: that is no reason to fail
            network.replaces = ""
    return ca.new_order(request)


def _network(settings: AcmeSettings, key: JWKEC | None = None) -> _Network:
    network = _Network(key, alg=ES256, user_agent=_USER_AGENT)
    if settings.ca is not None:
        setattr(network, "verify_ssl", str(settings.ca))  # noqa: B010 - typed as bool, and given to `requests`
    return network


def _connect(settings: AcmeSettings, account_key: Path) -> client.ClientV2:
    network = _network(settings, _account_key(account_key))
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
def _answered(
    ca: client.ClientV2, authorization: messages.AuthorizationResource, challenge: str, answers: Path
) -> Iterator[None]:
    """Offer the answer, and tell the CA to look."""
    host = authorization.body.identifier.value
    offered = [each for each in authorization.body.challenges if each.chall.typ == challenge]
    if not offered:
        raise AcmeFailed(f"{host}: the CA offers no {challenge}")
    response, proof = offered[0].response_and_validation(ca.net.key)
    answers.mkdir(parents=True, exist_ok=True)
    if isinstance(proof, bytes):
        path = write_answer(answers, host, proof)
    else:
        path = answers / offered[0].chall.encode("token")
        write_whole(path, proof.encode(), 0o644)
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
