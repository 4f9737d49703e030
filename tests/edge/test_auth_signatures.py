"""Signatures bent in the ways of Project Wycheproof's JWS vectors, made here with keys of our own: PKCS #1 padding with
every field of its DER wrong (Bleichenbacher 2006, CVE-2006-4339; RFC 8017, 8.2.2), PSS with its salt, hash and masks
wrong (RFC 8017, 9.1.2), ECDSA with numbers at the edges (CVE-2022-21449), algorithms exchanged (RFC 8725, 2.1), and
tokens with parts missing, added or spelled otherwise (RFC 7515, 3.1)."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.edge import jws
from gateway.stores.keysets import SECRET, KeySet
from tests.edge.auth_makers import b64, by, by_secret, compact, ec_key, jwk, rsa_key

SHARED = bytes(range(64))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2, 2.4.2)
OID = bytes.fromhex("0609608648016503040201")  # SHA-256


@cache
def keys_of(algorithm: str) -> KeySet:
    if algorithm in SECRET:
        return KeySet.of_secret(SHARED, [algorithm])
    return KeySet([public(algorithm)], [algorithm])


def private(algorithm: str) -> Any:
    return rsa_key() if algorithm[:2] in ("RS", "PS") else ec_key() if algorithm == "ES256" else longer(algorithm)


@cache
def longer(algorithm: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1() if algorithm == "ES384" else ec.SECP521R1())


def public(algorithm: str, **more: Any) -> dict[str, Any]:
    return jwk(private(algorithm), algorithm, kid="k", alg=algorithm, **more)


def is_accepted(token: bytes, algorithm: str, keys: KeySet | None = None) -> bool:
    """As `Tokens` does for an issuer with this algorithm, for any payload."""
    try:
        parts = jws.split(token)
    except jws.Malformed:
        return False
    if parts.header.get("alg") != algorithm:
        return False
    key = (keys or keys_of(algorithm)).find(parts.header.get("kid"), algorithm)
    return key is not None and parts.is_signed_by(key)


def signed(algorithm: str, payload: bytes = b"payload", **header: Any) -> bytes:
    sign = by_secret(SHARED, f"sha{algorithm[2:]}") if algorithm in SECRET else by(private(algorithm), algorithm)
    return compact({"alg": algorithm, "kid": "k", **header}, payload, sign)


# --- what is right ---

EVERY = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512"]
PAYLOADS = {"empty": b"", "zeros": bytes(20), "one byte": b"\x01", "text": b"It is a dangerous business, going out."}


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_good_signature_over_anything_is_accepted(algorithm: str, payload: str) -> None:
    assert is_accepted(signed(algorithm, PAYLOADS[payload]), algorithm)


@pytest.mark.parametrize("header", [b'{ "alg" : "HS256" , "kid" : "k" }', b'{"alg":"HS256",\n\t"kid":"k"}'])
def test_space_inside_the_header_is_the_issuers_business(header: bytes) -> None:
    assert is_accepted(compact(header, b"payload", by_secret(SHARED)), "HS256")


@pytest.mark.parametrize("use", [{"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["verify", "sign"]}])
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES512"])
def test_a_key_that_says_it_is_for_signatures_is(algorithm: str, use: dict[str, Any]) -> None:
    assert is_accepted(signed(algorithm), algorithm, KeySet([public(algorithm, **use)], [algorithm]))


def test_a_salt_of_nothing_but_zeros_or_ones_is_a_salt() -> None:
    for salt in (bytes(32), b"\xff" * 32):
        assert is_accepted(raw("PS256", pss(salt=salt)), "PS256")


def test_what_is_bent_below_is_right_when_it_is_not_bent() -> None:
    assert is_accepted(raw("RS256", pkcs1(digest_info())), "RS256")
    assert is_accepted(raw("PS256", pss()), "PS256")


# --- RSA by hand ---

SIGNING = b64(b'{"alg":"RS256","kid":"k"}') + b"." + b64(b"payload")
PSS_SIGNING = SIGNING.replace(b64(b'{"alg":"RS256","kid":"k"}'), b64(b'{"alg":"PS256","kid":"k"}'))


@cache
def rsa_numbers() -> rsa.RSAPrivateNumbers:
    return rsa_key().private_numbers()


def raw(algorithm: str, encoded: bytes | int) -> bytes:
    """The token with the RSA signature of an encoded message, whatever that is (RFC 8017, 5.2.1)."""
    signing = SIGNING if algorithm == "RS256" else PSS_SIGNING
    numbers = rsa_numbers()
    p, q = numbers.p, numbers.q
    message = encoded if isinstance(encoded, int) else int.from_bytes(encoded, "big")
    one, other = pow(message % p, numbers.dmp1, p), pow(message % q, numbers.dmq1, q)  # RFC 8017, 5.1.2: a third of it
    return signing + b"." + b64((other + q * ((one - other) * numbers.iqmp % p)).to_bytes(256, "big"))


def der(tag: int, content: bytes, length: bytes | None = None) -> bytes:
    return bytes([tag]) + (bytes([len(content)]) if length is None else length) + content


def digest_info(oid: bytes = OID, null: bytes = b"\x05\x00", octets: bytes | None = None) -> bytes:
    digest = hashlib.sha256(SIGNING).digest() if octets is None else octets
    return der(0x30, der(0x30, oid + null) + (der(0x04, digest) if octets is None else octets))


def pkcs1(info: bytes, head: bytes = b"\x00\x01", fill: bytes = b"\xff", size: int = 256) -> bytes:
    padding = (fill * size)[: size - len(head) - 1 - len(info)]
    return head + padding + b"\x00" + info


def bent(element: bytes) -> Iterator[bytes]:
    """An element of DER with its tag, length or content wrong."""
    yield from (other for other in _bent(element) if other != element)


def _bent(element: bytes) -> Iterator[bytes]:
    tag, content = element[0], element[2:]
    lengths = [b"\x81" + bytes([len(content)]), b"\x82\x00" + bytes([len(content)]), b"\x80", b"\xff", b""]
    lengths += [bytes([len(content) + change]) for change in (1, -1) if len(content) + change >= 0]
    lengths += [bytes([0x80 + len(number)]) + number for number in
                (b"\x01\x00\x00\x00" + bytes([len(content)]), b"\x01" + bytes(7) + bytes([len(content)]),
                 b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 4, b"\xff" * 5, b"\xff" * 8)]  # fmt: skip
    for length in lengths:
        yield der(tag, content, length)
    for other in (0x00, 0x02, 0x03, 0x0C, 0x10, 0x31, 0x80 | tag, tag | 0x20, tag ^ 0x20, 0xFF):
        if other != tag:
            yield der(other, content)
    yield b""
    yield bytes([tag])
    yield bytes([tag, 0])
    yield b"\x05\x00" if tag != 0x05 else b"\x05\x01\x00"
    for extra in (b"\x00\x00", b"\x05\x00", b"\xaa\xbb\xcd", b"\xa0\x00", b"\xbf\x7f\x00", b"\x30\x00"):
        yield der(tag, content + extra)
        yield der(tag, extra + content)
        yield element + extra
        yield extra + element
    yield der(tag | 0x20, content + b"\x00\x00", b"\x80")
    yield der(tag | 0x20, element)
    if content:
        yield der(tag, content[:-1])
        yield der(tag, content[1:])
        yield der(tag, bytes([content[0] ^ 1]) + content[1:])
        yield der(tag, content[:-1] + bytes([content[-1] ^ 1]))


def bent_pkcs1() -> Iterator[bytes | int]:
    digest, good = der(0x04, hashlib.sha256(SIGNING).digest()), digest_info()
    for oid in bent(OID):
        yield pkcs1(digest_info(oid=oid))
    for null in bent(b"\x05\x00"):
        yield pkcs1(digest_info(null=null))
    for octets in bent(digest):
        yield pkcs1(digest_info(octets=octets))
    inner = der(0x30, OID + b"\x05\x00")
    for algorithm in bent(inner):
        yield pkcs1(der(0x30, algorithm + digest))
    for whole in bent(good):
        yield pkcs1(whole)
    for other in ("0609608648016503040202", "0609608648016503040204", "06052b0e03021a", "06082a864886f70d0205"):
        yield pkcs1(digest_info(oid=bytes.fromhex(other)))
    yield pkcs1(hashlib.sha256(SIGNING).digest())
    for head in (b"\x00\x02", b"\x00\x00", b"\x01\x01", b"\x00\x01\x00", b"\x00\x03"):
        yield pkcs1(good, head=head)
    for fill in (b"\x00", b"\xfe", b"\xff\xfe", b"\x01"):
        yield pkcs1(good, fill=fill)
    # Bleichenbacher: little padding, the rest of the room behind the digest.
    short = b"\x00\x01" + b"\xff" * 8 + b"\x00" + good
    yield short + bytes(256 - len(short))
    yield short + b"\xff" * (256 - len(short))
    yield b"\x00\x01\x00" + good + bytes(253 - len(good))
    yield 0
    yield 1
    yield rsa_key().public_key().public_numbers().n - 1


def mgf1(seed: bytes, length: int, new: Any = hashlib.sha256) -> bytes:
    blocks = (new(seed + counter.to_bytes(4, "big")).digest() for counter in range(length // new().digest_size + 1))
    return b"".join(blocks)[:length]


def pss(
    salt: bytes = b"s" * 32,
    *,
    digest: bytes | None = None,
    head: bytes = b"",
    mark: bytes = b"\x01",
    trailer: bytes = b"\xbc",
    mask: Any = hashlib.sha256,
) -> bytes:
    """RFC 8017, 9.1.1, for 2048 bits."""
    of_message = hashlib.sha256(PSS_SIGNING).digest() if digest is None else digest
    hashed = hashlib.sha256(bytes(8) + of_message + salt).digest()
    block = (head + bytes(255))[: 256 - 32 - 1 - len(mark) - len(salt)] + mark + salt
    masked = bytearray(one ^ other for one, other in zip(block, mgf1(hashed, len(block), mask), strict=True))
    masked[0] &= 0x7F
    return bytes(masked) + hashed + trailer


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def bent_pss() -> Iterator[bytes | int]:
    good = pss()
    for length in (0, 1, 20, 31, 33, 64, 190):
        yield pss(salt=b"s" * length)
    for other in (b"", bytes(32), hashlib.sha256(b"other").digest(), hashlib.sha1(PSS_SIGNING).digest()):
        yield pss(digest=other)
    yield flipped(pss(), -2)  # the hash
    yield flipped(pss(), 230)
    for place in (1, 100, 190, 191, 222):  # zeros, mark and salt, through the mask
        yield flipped(good, place)
    for head in (b"\x01", b"\x00\x00\x01", b"\xff" * 100):
        yield pss(head=head)
    for mark in (b"\x00", b"\x02", b"\xff", b"\x01\x01"):
        yield pss(mark=mark)
    for trailer in (b"\xbd", b"\xcc", b"\x00", b"\x33\xcc"):
        yield pss(trailer=trailer)[-256:]
    for mask in (hashlib.sha1, hashlib.sha384, hashlib.sha512):
        yield pss(mask=mask)
    yield bytes([good[0] | 0x80]) + good[1:]
    yield 0
    yield 1
    yield rsa_key().public_key().public_numbers().n - 1


def at_the_edges(algorithm: str) -> Iterator[bytes]:
    """Of an RSA signature as it is written down."""
    good = signed(algorithm)
    signing, _, last = good.rpartition(b".")
    signature = jws.split(good).signature
    modulus = rsa_key().public_key().public_numbers().n
    number = int.from_bytes(signature, "big")
    edges = (number + modulus).to_bytes(257, "big"), modulus.to_bytes(256, "big"), bytes(256), bytes(255) + b"\x01"
    shapes = (
        b"\x00" + signature,
        signature + b"\x00",
        signature[1:],
        signature[:-1],
        signature[:128],
        flipped(signature, 9),
    )
    for other in (*edges, *shapes, b"\x00", (modulus - 1).to_bytes(256, "big"), signature * 2):
        yield signing + b"." + b64(other)
    yield signing + b"." + last[:-1]


def exchanged() -> Iterator[tuple[bytes, str]]:
    """The key of one algorithm, a token of another."""
    family = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    for ours in family:
        for other in family:
            if other != ours:
                yield signed(other), ours
                yield compact({"alg": ours, "kid": "k"}, b"payload", by(rsa_key(), other)), ours
    for ours in EVERY:
        yield compact({"alg": "none", "kid": "k"}, b"payload", lambda _: b""), ours
        yield compact({"alg": "none", "kid": "k"}, b"payload", lambda _: b"x"), ours
        for alg in ("None", "NONE", "nOnE", "", None, [ours], ours.lower()):
            if alg != ours:
                sign = by_secret(SHARED) if ours in SECRET else by(private(ours), ours)
                yield compact({"alg": alg, "kid": "k"}, b"payload", sign), ours
    for ours, material in (("RS256", public("RS256")["n"].encode()), ("ES256", json.dumps(public("ES256")).encode())):
        yield compact({"alg": "HS256", "kid": "k"}, b"payload", by_secret(material)), ours
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    header = {"alg": "RS256", "kid": "k", "jwk": jwk(stranger, "RS256")}
    yield compact(header, b"payload", by(stranger, "RS256")), "RS256"


def bent_numbers() -> Iterator[bytes]:
    """ECDSA over P-256: r and s, 32 bytes each (RFC 7518, 3.4)."""
    signing, signature = signed("ES256").rpartition(b".")[0], jws.split(signed("ES256")).signature
    edges = [0, 1, 2, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1]
    for r in edges:
        for s in edges:
            yield signing + b"." + b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    r, s = signature[:32], signature[32:]
    wide = (int.from_bytes(r, "big") + ORDER).to_bytes(33, "big")
    shapes = [signature + b"\x00", b"\x00" + signature, bytes(2) + signature, signature + bytes(64), s + r, r, s,
              b"\x00", r + r, wide + s, r + bytes(32), bytes(32) + s, signature * 2, signature[:-1],
              flipped(signature, 5), flipped(signature, 40), der(0x30, der(2, r) + der(2, s)), r[1:] + s,
              r + s[1:]]  # fmt: skip
    for other in shapes:
        yield signing + b"." + b64(other)


def torn(algorithm: str) -> Iterator[bytes]:
    """Parts missing, changed, or too many; and the same bytes in other spellings."""
    good = signed(algorithm)
    header, payload, signature = good.split(b".")
    other = b64(b"other")
    yield from (b"", b".", b"..", b"...", header, header + b".", header + b"..", payload, signature)
    yield from (b".".join(parts) for parts in ((header, payload), (payload, signature), (header, signature)))
    yield from (header + b"." + payload + b".", b"." + payload + b"." + signature, header + b".." + signature)
    yield from (good + b".", good + b"." + other, b"." + good, header + b"." + other + b"." + signature)
    yield b64(json.dumps({"alg": algorithm, "kid": "k", "x": 1}).encode()) + b"." + payload + b"." + signature
    yield b64(b"null") + b"." + payload + b"." + signature
    yield json.dumps(
        {"protected": header.decode(), "payload": payload.decode(), "signature": signature.decode()}
    ).encode()
    for place, part in enumerate((header, payload, signature)):
        for extra in (
            b"=",
            b"==",
            b" ",
            b"    ",
            b"?",
            b"####",
            b"\n",
            b"\x00",
            b"%3D",
            b"+",
            b"/",
            b"*",
            "é".encode(),
        ):
            for changed in (part + extra, extra + part, part[:3] + extra + part[3:]):
                parts = [header, payload, signature]
                parts[place] = changed
                yield b".".join(parts)
    last = signature[-1:]
    for digit in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if bytes([digit]) != last:  # also those that differ in bits which no byte has a place for
            yield header + b"." + payload + b"." + signature[:-1] + bytes([digit])


def every_bent_token() -> Iterator[tuple[bytes, str]]:
    yield from ((raw("RS256", encoded), "RS256") for encoded in bent_pkcs1())
    yield from ((raw("PS256", encoded), "PS256") for encoded in bent_pss())
    for algorithm in ("RS256", "RS512", "PS256", "PS512"):
        yield from ((token, algorithm) for token in at_the_edges(algorithm))
    yield from exchanged()
    yield from ((token, "ES256") for token in bent_numbers())
    for algorithm in ("HS256", "ES256", "RS256", "PS384"):
        yield from ((token, algorithm) for token in torn(algorithm))


@pytest.mark.parametrize("algorithm", ["PS256", "PS512"])
def test_a_signature_without_its_leading_zero_is_another_spelling_and_refused(algorithm: str) -> None:
    for number in range(10_000):  # one in 256 has one
        good = signed(algorithm, b"%d" % number)
        signature = jws.split(good).signature
        if signature[0] == 0:
            break
    assert is_accepted(good, algorithm)
    assert not is_accepted(good.rpartition(b".")[0] + b"." + b64(signature[1:]), algorithm)


def test_no_bent_signature_is_accepted() -> None:
    every = list(every_bent_token())
    assert len({token for token, _ in every}) > 355, "as many as Wycheproof has, each another one"
    assert [(token, algorithm) for token, algorithm in every if is_accepted(token, algorithm)] == []
