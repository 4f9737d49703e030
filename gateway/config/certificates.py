"""The shape of `tls` in routes.yaml: the certificates shown to clients, and those that clients show."""

from typing import Literal, Self

from pydantic import model_validator

from gateway.config.names import Alternative, Host, HostPattern
from gateway.config.shape import Strict, needed, setting
from gateway.config.values import FilePath, Positive, Text, WebURL, Years


class ClientCA(Strict):
    """CAs whose certificates prove clients, and the hosts where clients are asked for one."""

    file: FilePath = needed("PEM file of the CAs' certificates, roots or issuers; picked up live when it changes.")
    crl: FilePath | None = setting(
        None, "File of their revocation lists, PEM or DER, one of each issuer; picked up live when it changes."
    )
    require: bool = setting(False, "Refuse the handshake of who shows no certificate; false: it is asked for, no more.")
    hosts: list[HostPattern] = setting(
        [], "Connections to these hosts (SNI), `*.example.com` among them; [] is every host that no other entry names."
    )


class CertificateRule(Strict):
    """A kind of client certificate, and what its owner is called and may call. What it says of the certificate must
    all be so."""

    ca: Text = needed("The entry of `tls.client_ca` that verified it.")
    subject: Text | None = setting(None, "A glob of its subject as RFC 4514 writes it: `CN=*,OU=batch,O=Example`.")
    san: Alternative | None = setting(
        None, "A glob of one of its subjectAltNames: `DNS:*.batch.example`, `URI:spiffe://…`, `email:…`, `IP:…`."
    )
    name: Text | None = setting(None, "What its owner is called; the name that matched, or its common name, if absent.")
    models: list[Text] | None = setting(None, "Globs of `model` or `model@version` it may call; null: all.")


class AcmeSettings(Strict):
    """A certificate that is issued, and renewed, by itself. Having it means to agree to the CA's terms of service."""

    domains: list[Host] = needed(
        "Its names; each must lead to `gateway.http` at port 80, for `tls-alpn-01` to `gateway.https` at port 443.",
        min_length=1,
        max_length=100,
    )
    email: Text | None = setting(None, "Where the CA writes to.")
    directory: WebURL = setting("https://acme-v02.api.letsencrypt.org/directory", "The CA.")
    challenge: Literal["http-01", "tls-alpn-01"] = setting(
        "http-01", "How domains are proved: over plain HTTP, or in a TLS handshake."
    )
    ca: FilePath | None = setting(None, "PEM file that proves `directory`, for a CA of one's own.")


class HstsSettings(Strict):
    """Strict-Transport-Security (RFC 6797): browsers come to these hosts over https only, for as long as it says."""

    max_age: Years = setting("730d", "How long a browser remembers, up to ten years; 0: it forgets.")
    include_subdomains: bool = setting(False, "For all subdomains of the host as well.")
    preload: bool = setting(False, "Allow browsers to ship with it (hstspreload.org).")

    @model_validator(mode="after")
    def _may_be_preloaded(self) -> Self:
        if self.preload and not (self.include_subdomains and self.max_age >= 365 * 86400):
            raise ValueError("`preload` needs `include_subdomains` and a `max_age` of 365d")
        return self


class TLSSettings(Strict):
    """The certificates, in one place, and how clients are spoken to."""

    certificates: FilePath = setting(
        "certs", "Folder: every NAME.crt with its NAME.key is served by SNI; a change is picked up live."
    )
    client_ca: dict[Text, ClientCA] = setting({}, "Client certificates: of whom, and where they are asked for.")
    acme: AcmeSettings | None = setting(None, "A certificate from a CA that speaks ACME (RFC 8555).")
    hsts: HstsSettings | None = setting(None, "Tell browsers to come over https only; null: no.")
    default_certificate: str = setting(
        "", "NAME for clients that ask for no host or an unknown one; chosen as docs/certificates.md says if empty."
    )
    strict_sni: bool = setting(False, "Refuse the handshake for a host that no certificate names.")
    profile: Literal["intermediate", "modern", "custom"] = setting(
        "intermediate", "Mozilla's guideline 6.0; `modern` is TLS 1.3 alone; `custom` takes `ciphers`."
    )
    min_version: Literal["1.2", "1.3"] = setting("1.2", "The oldest TLS version that is spoken.")
    ciphers: str = setting("", "For `profile: custom`: the TLS 1.2 suites, in OpenSSL's notation.")
    session_tickets: bool = setting(False, "Resume sessions, in every worker; the key lives until a restart.")
    handshake_timeout: Positive = setting("10s", "From accepting a connection to the end of its handshake.")

    @model_validator(mode="after")
    def _ciphers_belong_to_custom(self) -> Self:
        if (self.profile == "custom") != bool(self.ciphers):
            raise ValueError("`profile: custom` and `ciphers` need each other")
        return self

    @model_validator(mode="after")
    def _sessions_prove_nobody(self) -> Self:
        if self.session_tickets and self.client_ca:
            raise ValueError("`session_tickets` would let a session of one host prove a client to another: `client_ca`")
        return self
