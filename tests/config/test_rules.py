"""What no single key can say; and what is allowed and probably not meant."""

from itertools import pairwise

import pytest

from gateway.config import rules
from gateway.config.advice import ADVICE, is_private
from gateway.config.rules import RULES
from gateway.core.snapshot import ENDPOINTS
from tests.config.routes_file import MODEL, model, problems_of, settings_of, warnings_of

V1 = "versions: {v1: {endpoints: [http://127.0.0.1:1]}}"
ISSUER = "issuer: https://i/, audience: a, jwks_url: https://i/jwks"

BROKEN = {  # rule -> (file, what is said)
    "listeners_differ": (
        "gateway: {https: 0.0.0.0:1, http: 127.0.0.1:1, admin: 127.0.0.1:2}\n",
        "routes.yaml:1: gateway.http: listens where https does",
    ),
    "proxies_are_known": (
        f"gateway: {{proxy_protocol: true}}\n{MODEL}",
        "routes.yaml:1: gateway.proxy_protocol: needs trusted_proxies: nobody else is believed to speak for others",
    ),
    "keys_are_in_one_place": (
        f"auth:\n  keys: keys.yaml\n  key_store: {{use: plugins.x.Store}}\n{MODEL}",
        "routes.yaml:3: auth.key_store: is beside `keys`: in which of them are the keys?",
    ),
    "issuers_differ": (
        f"auth:\n  jwt:\n    - {{{ISSUER}}}\n    - {{{ISSUER}}}\n",
        "routes.yaml:4: auth.jwt[1].issuer: 'https://i/' is auth.jwt[0] already",
    ),
    "hosts_have_one_ca": (
        f"tls: {{client_ca: {{a: {{file: a, hosts: [H.org]}}, b: {{file: b, hosts: [h.org]}}}}}}\n{MODEL}",
        "routes.yaml:1: tls.client_ca.b: a asks clients of h.org already",
    ),
    "certificates_have_cas": (
        model("auth: [mtls]"),
        "routes.yaml:3: models.m.auth: takes client certificates, but tls.client_ca has no CA",
    ),
    "chains_follow_certificates": (
        "tls: {client_ca: {a: {file: a}}}\n" + model("pass_certificate: [client-cert-chain]"),
        "routes.yaml:4: models.m.pass_certificate: `client-cert-chain` needs `client-cert` (RFC 9440, 2.3)",
    ),
    "permissions_have_callers": (
        "models:\n  m: {allow: [{scope: s}], versions: {v: {endpoints: [http://h]}}}\n",
        "routes.yaml:2: models.m.allow[0]: speaks of tokens, but `auth` takes no jwt",
    ),
    "credentials_go_one_way": (
        "models:\n  m: {pass_credentials: true, upstream_auth: {value_env: K}, versions: {v: {endpoints: [http://h]}}}\n",
        "routes.yaml:2: models.m.pass_credentials: the caller's credential is either passed on or replaced "
        "(upstream_auth)",
    ),
    "users_exist": (
        model("auth: [basic]"),
        "routes.yaml:3: models.m.auth: takes passwords, but auth.htpasswd names no file of users",
    ),
    "introspection_is_somewhere": (
        model("auth: [introspection]"),
        "routes.yaml:3: models.m.auth: takes tokens that must be asked about, but auth.introspection names nobody to "
        "ask",
    ),
    "services_decide_alone": (
        model("auth: [key, {external: http://10.0.0.1/}, {external: http://10.0.0.2/}]"),
        "routes.yaml:3: models.m.auth[2].external: auth[1] decides already; one service has the last word",
    ),
    "issuers_exist": (
        model("auth: [jwt]"),
        "routes.yaml:3: models.m.auth: takes JWTs, but auth.jwt names no issuer",
    ),
    "names_are_claimed_once": (
        f"models:\n  a: {{aliases: [x], {V1}}}\n  b: {{aliases: [x], {V1}}}\n",
        "routes.yaml:3: models.b.aliases[0]: 'x' leads to model 'a' already",
    ),
    "endpoints_are_proved_in_one_way": (
        "models:\n  a: {versions: {v1: {endpoints: [https://h]}}}\n"
        "  b: {upstream_tls: {server_name: s}, versions: {v1: {endpoints: [https://h]}}}\n",
        "routes.yaml:3: models.b.versions.v1.endpoints[0]: https://h has another upstream_tls in a@v1",
    ),
    "acme_can_work": (
        f"tls: {{acme: {{domains: [a.org]}}}}\n{MODEL}",
        "routes.yaml:1: tls.acme: needs gateway.http, where the CA looks for its proof",
    ),
    "fallbacks_can_answer": (
        f"models:\n  a: {{fallback: [b@v9], {V1}}}\n  b: {{{V1}}}\n",
        "routes.yaml:2: models.a.fallback[0]: model 'b' has no version 'v9'; it has v1",
    ),
    "matches_are_claimed_once": (
        f"models:\n  a: {{match: [{{host: H.org}}], {V1}}}\n  b: {{match: [{{host: h.org, prefix: /}}], {V1}}}\n",
        "routes.yaml:3: models.b.match[0]: h.org/ leads to model 'a' already",
    ),
    "versions_are_reachable": (
        model("default_version: v2"),
        "routes.yaml:3: models.m.default_version: there is no version 'v2'; there is v1",
    ),
    "endpoints_differ": (
        model("auth: [key]", "http://h, http://h:80/"),
        "routes.yaml:5: models.m.versions.v1.endpoints[1]: http://h:80/ is there already; "
        "for more work, give it a weight",
    ),
    "limits_know_their_callers": (
        model("auth: []\nlimits: [{rate: 1/second, per: principal}]"),
        "routes.yaml:4: models.m.limits[0].per: per: principal "
        "counts nobody in model 'm', which is public: use per: ip",
    ),
}

DOUBTFUL = {  # advice -> (file, what is said)
    "models_exist": ("models: {}\n", "routes.yaml:1: models: nothing is served"),
    "everybody_is_trusted": (
        "gateway:\n  trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]\n" + MODEL,
        "routes.yaml:2: gateway.trusted_proxies[1]: anyone may say which address they come from",
    ),
    "issuers_are_careless": (
        "auth: {jwt: [{issuer: i, jwks_url: https://i/}]}\n" + MODEL,
        "routes.yaml:1: auth.jwt[0].audience: without an audience, every token that names one is refused",
    ),
    "fallbacks_pass_plugins_by": (
        f"models:\n  a: {{fallback: [b], plugins: [{{use: x.Y, o: 1}}], {V1}}}\n"
        f"  b: {{plugins: [{{use: x.Y, o: 1}}, {{use: x.Z}}], {V1}}}\n",
        "routes.yaml:2: models.a.fallback[0]: what falls back to 'b' passes its plugins by (x.Z): 'a' lacks them",
    ),
    "models_are_public": (model("auth: []"), "routes.yaml:3: models.m.auth: model 'm' is public: anyone may call it"),
    "endpoints_are_in_clear": (
        model("auth: [key]", "http://127.0.0.1:1, http://8.8.8.8:1"),
        "routes.yaml:5: models.m.versions.v1.endpoints[1]: http://8.8.8.8:1 is reached "
        "over http:// outside private networks",
    ),
    "hidden_models_take_their_time": (
        model("auth: [key, {external: http://127.0.0.1/}]\nhide: true"),
        "routes.yaml:4: models.m.hide: to look at a credential (external) takes time, which tells that there is "
        "something",
    ),
    "services_are_in_clear": (
        model("auth: [{external: http://decides.example.com/}]"),
        "routes.yaml:3: models.m.auth[0].external: credentials go to it over http:// outside private networks",
    ),
    "endpoints_are_not_proved": (
        model("upstream_tls: {insecure: true}", "https://h:1"),
        "routes.yaml:3: models.m.upstream_tls: m@v1: whoever answers for its endpoints is believed",
    ),
    "versions_are_chosen_by_order": (
        "models:\n  m: {versions: {v1: {endpoints: [http://h:1]}, v2: {endpoints: [http://h:1]}}}\n",
        "routes.yaml:2: models.m.versions: no weights and no default_version: the last, "
        "'v2', serves requests that name none",
    ),
    "prefixes_hide_names": (
        model("match: [{prefix: /}]"),
        "routes.yaml:3: models.m.match[0]: comes before /models, /v1, /v2/models, by which every model is reached",
    ),
    "headers_are_replaced": (
        model("headers: {request: {set: {x-request-id: x}}}"),
        "routes.yaml:3: models.m.headers.request.set.x-request-id: has no effect: "
        "the gateway writes this header itself",
    ),
    "hash_is_unused": (
        model("balance: {hash: {header: x-session}}"),
        "routes.yaml:3: models.m.balance.hash: only the policy consistent_hash has a use for it",
    ),
    "prompts_are_not_read": (
        model("max_in_flight: {pending_tokens: 2048}"),
        "routes.yaml:3: models.m.max_in_flight.pending_tokens: has no effect: no policy here reads prompts, as "
        "cache_aware, llm, lmetric, lpwl, prefix_hash, sticky_until_saturated do",
    ),
}


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES if rule is not rules.store_is_installed])
def test_every_rule_finds_what_it_is_there_for(rule):
    text, said = BROKEN[rule]
    assert problems_of(text) == [said]


@pytest.mark.parametrize("advice", [rule.__name__ for rule in ADVICE])
def test_every_warning_warns_and_refuses_nothing(advice):
    text, said = DOUBTFUL[advice]
    assert warnings_of(text) == [said]


def test_a_store_whose_package_is_not_installed_is_a_problem(monkeypatch):
    text = "gateway: {limits_store: redis://h}\n" + MODEL
    assert problems_of(text) == []
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    assert problems_of(text) == [
        "routes.yaml:1: gateway.limits_store: needs the package redis: install model-gateway[redis]"
    ]


@pytest.mark.parametrize(
    "gateway",
    [
        "https: 127.0.0.1:1, admin: 127.0.0.2:1",
        "https: 0.0.0.0:0, http: 0.0.0.0:0, admin: 0.0.0.0:0",  # any free ports
        "https: 0.0.0.0:1, http: 0.0.0.0:2, admin: 0.0.0.0:3",
    ],
)
def test_listeners_that_do_not_collide(gateway):
    assert problems_of(f"gateway: {{{gateway}}}\n") == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("iris:", "x: {aliases: [iris]}"),
        ("iris: {aliases: [iris]}", "x:"),
        ("iris: {aliases: [a, a]}", "x:"),
        ("iris:", "iris/ready:"),
        ("iris: {aliases: [flower]}", "'flower:predict':"),
        ("iris: {match: [{prefix: /a}]}", "x: {match: [{prefix: /a/}]}"),
        ("iris: {match: [{prefix: /a}, {prefix: /a}]}", "x:"),
        ("iris: {match: [{host: h, prefix: /a}]}", "x: {match: [{prefix: /b}, {prefix: /a, host: h.}]}"),
    ],
)
def test_names_hosts_and_prefixes_that_lead_to_two_models(first, second):
    assert len(problems_of(_two(first, second))) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("iris:", "iris/large:"),
        ("iris:", "Iris: {aliases: [IRIS]}"),
        ("iris:", "ready: {aliases: [x/ready]}"),
        ("iris: {match: [{host: h, prefix: /a}]}", "x: {match: [{host: h, prefix: /b}, {prefix: /a}, {host: i}]}"),
        ("iris: {match: [{prefix: /a}]}", "x: {match: [{prefix: /a/b}, {prefix: /ab}]}"),
    ],
)
def test_names_hosts_and_prefixes_that_lead_to_one_each(first, second):
    assert problems_of(_two(first, second)) == []


def _two(first, second):
    lines = [line[:-1] + f", {V1}}}" if line.endswith("}") else f"{line} {{{V1}}}" for line in (first, second)]
    return "models:\n  " + "\n  ".join(lines) + "\n"


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ("{}", "versions: needs at least one version"),
        ("{v1: {endpoints: []}}", "versions.v1.endpoints: needs at least one endpoint"),
        ("{v1: {endpoints: [http://h:1], weight: 0}}", "versions: every weight is 0"),
        ("{v1: {endpoints: [http://h:1], weight: -1}}", "versions.v1.weight: '-1' is not at least 0"),
        ("{v1: {endpoints: [http://h:1], weight: nan}}", "versions.v1.weight: expected a finite number"),
        ("{a@b: {endpoints: [http://h:1]}}", "versions.a@b: 'a@b': a version's name has"),
    ],
)
def test_versions_that_serve_nothing(versions, said):
    [problem] = problems_of(f"models:\n  m: {{versions: {versions}}}\n")
    assert problem.startswith(f"routes.yaml:2: models.m.{said}")


def test_a_version_may_have_no_weight_beside_one_that_has():
    text = "models: {m: {versions: {v1: {endpoints: [http://h:1], weight: 1}, v2: {endpoints: [http://h:1]}}}}\n"
    assert warnings_of(text) == []


def test_one_endpoint_may_serve_two_versions_and_two_models():
    both = "{v1: {endpoints: [http://h:1]}, v2: {endpoints: [http://h:1], weight: 1}}"
    assert problems_of(f"models: {{a: {{versions: {both}}}, b: {{versions: {both}}}}}\n") == []


ANY = "versions: {v: {endpoints: [http://h]}}"


def test_rules_about_tokens_need_tokens_and_a_public_model_cannot_hide():
    allow = "allow: [{scope: s}]"
    jwt = "auth: {jwt: [{issuer: https://i/}]}\n"
    assert problems_of(f"{jwt}models:\n  m: {{auth: [jwt], {allow}, hide: true, {ANY}}}\n") == []
    (problem,) = problems_of(f"models:\n  m: {{{allow}, {ANY}}}\n")
    assert problem == "routes.yaml:2: models.m.allow[0]: speaks of tokens, but `auth` takes no jwt"
    (problem,) = problems_of(f"models:\n  m: {{auth: [], hide: true, {ANY}}}\n")
    assert problem == "routes.yaml:2: models.m.hide: a public model cannot be hidden: anyone may call it"


@pytest.mark.parametrize("rule", ["{}", "{claim: a}", "{contains: a}", "{scope: a, claim: b, contains: c}",
                                  "{scope: a, contains: c}"])  # fmt: skip
def test_a_rule_about_tokens_says_exactly_one_thing(rule):
    jwt = "auth: {jwt: [{issuer: https://i/}]}\n"
    (problem,) = problems_of(f"{jwt}models:\n  m: {{auth: [jwt], allow: [{rule}], {ANY}}}\n")
    assert problem == "routes.yaml:3: models.m.allow[0]: needs one of `scope`, `claim` with `contains`, `user`"


@pytest.mark.parametrize("more", ["", ", discovery: true"])
def test_an_issuer_whose_keys_are_nowhere_else_must_have_a_url_to_ask(more):
    assert problems_of(f"auth: {{jwt: [{{issuer: https://i/{more}}}]}}\n") == []
    (problem,) = problems_of(f"auth: {{jwt: [{{issuer: i{more}}}]}}\n")
    assert problem.startswith("routes.yaml:1: auth.jwt[0]: issuer: 'i' is not an http(s) URL; without")


@pytest.mark.parametrize(
    ("issuer", "is_whole"),
    [
        ("jwks_url: https://i/", True),
        ("jwks_file: f", True),
        ("public_key_file: f", True),
        ("jwks_url: https://i/, public_key_file: f", False),
        ("jwks_url: https://i/, discovery: true", False),
        ("jwks_url: https://i/, jwks_file: f, public_key_file: f", False),
    ],
)
def test_an_issuer_has_at_most_one_source_of_keys(issuer, is_whole):
    said = problems_of(f"auth:\n  jwt:\n    - {{issuer: i, {issuer}}}\n")
    wanted = "routes.yaml:3: auth.jwt[0]: needs exactly one of jwks_url, jwks_file, public_key_file, discovery"
    assert said == ([] if is_whole else [wanted])


@pytest.mark.parametrize(
    ("auth", "per", "is_right"),
    [
        ("[]", "ip", True),
        ("[]", "model", True),
        ("[]", "header:x-user", True),
        ("[]", "key", False),
        ("[]", "principal", False),
        ("[jwt]", "principal", True),
        ("[jwt]", "key", False),
        ("[key, jwt]", "key", True),
    ],
)
def test_a_limit_counts_callers_that_are_known(auth, per, is_right):
    text = f"auth: {{jwt: [{{{ISSUER}}}]}}\n" + model(f"auth: {auth}\nlimits: [{{rate: 1/second, per: '{per}'}}]")
    assert (problems_of(text) == []) is is_right


def test_hash_keys_are_exactly_one():
    assert (
        settings_of(model("balance: {policy: consistent_hash, hash: {cookie: c}}")).models["m"].balance.hash.ip is False
    )
    for wrong in ("{}", "{ip: false}", "{ip: true, header: x}", "{header: x, cookie: y}"):
        [problem] = problems_of(model(f"balance: {{policy: consistent_hash, hash: {wrong}}}"))
        assert "needs exactly one of" in problem


def test_match_says_something():
    assert problems_of(model("match: [{}]")) == ["routes.yaml:3: models.m.match[0]: needs host, prefix, or both"]


def test_groups_of_a_replacement_exist():
    said = problems_of(model(r"path: {regex: {pattern: '/(a)', replace: '/\2'}}"))
    assert [problem.partition(" at position")[0] for problem in said] == [
        r"routes.yaml:3: models.m.path.regex: replace: '/\\2' does not fit the pattern: invalid group reference 2"
    ]


def test_more_endpoints_than_a_machine_has_room_for_are_refused():
    urls = [f"http://h{number}" for number in range(ENDPOINTS + 1)]
    said = problems_of(model("auth: [key]", ", ".join(urls)))
    assert said == [f"routes.yaml:1: models: {ENDPOINTS + 1} endpoints; one machine has room for {ENDPOINTS}"]
    assert problems_of(model("auth: [key]", ", ".join(urls[1:]))) == []


def test_a_warning_from_the_defaults_names_every_model_it_is_about():
    text = f"defaults:\n  auth: []\nmodels:\n  a: {{{V1}}}\n  b: {{{V1}}}\n"
    assert warnings_of(text) == [
        f"routes.yaml:2: defaults.auth: model {name!r} is public: anyone may call it" for name in "ab"
    ]


def test_keys_of_issuers_that_come_in_clear_are_a_warning_outside_private_networks():
    text = "auth:\n  jwt:\n    - {issuer: i, audience: a, jwks_url: http://keys.example/}\n" + MODEL
    said = "routes.yaml:3: auth.jwt[0].jwks_url: keys that come over http:// can be replaced on their way"
    assert warnings_of(text) == [said]
    assert warnings_of(text.replace("keys.example", "dex.auth.svc")) == []


def test_a_hash_in_the_defaults_may_be_for_some_models_only():
    assert warnings_of("defaults: {balance: {hash: {header: x}}}\n" + MODEL) == []


def test_warnings_come_in_the_order_of_the_file():
    text = model("headers: {request: {set: {via: x}}}\nauth: []", "http://8.8.8.8, http://9.9.9.9")
    lines = [int(warning.split(":")[1]) for warning in warnings_of(text)]
    assert len(lines) == 4
    assert all(first <= second for first, second in pairwise(lines))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.1.1", "100.64.0.1", "::1", "fd00::1", "triton",
     "localhost", "triton.models.svc", "triton.models.svc.cluster.local", "gpu.internal"],
)  # fmt: skip
def test_hosts_in_networks_of_ones_own(host):
    assert is_private(host)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "2001:4860:4860::8888", "models.example.com", "local.example.com", "svc.io"]
)
def test_hosts_that_may_be_anywhere(host):
    assert not is_private(host)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"tls: {{client_ca: {{a: {{file: a}}, b: {{file: b}}}}}}\n{MODEL}",
            "routes.yaml:1: tls.client_ca.b: a asks all hosts that no other names, too: give it `hosts`",
        ),
        (
            f"tls: {{client_ca: {{a: {{file: a}}}}}}\nauth: {{mtls: [{{ca: b}}]}}\n{MODEL}",
            "routes.yaml:2: auth.mtls[0].ca: tls.client_ca has no 'b'; it has a",
        ),
        (
            model("pass_certificate: [client-cert]"),
            "routes.yaml:3: models.m.pass_certificate: no client is asked for a certificate: tls.client_ca has no CA",
        ),
        (
            f"tls: {{client_ca: {{a: {{file: a}}}}, session_tickets: true}}\n{MODEL}",
            "routes.yaml:1: tls: `session_tickets` would let a session of one host prove a client to another: "
            "`client_ca`",
        ),
        (
            f"tls: {{client_ca: {{a: {{file: a}}}}}}\nauth: {{mtls: [{{ca: a, san: x.test}}]}}\n{MODEL}",
            "routes.yaml:2: auth.mtls[0].san: 'x.test' is no subjectAltName: it begins with DNS:, URI:, email:, IP:",
        ),
    ],
)
def test_what_is_said_of_client_certificates_must_fit_together(text, said):
    assert problems_of(text) == [said]


@pytest.mark.parametrize(("entry", "said"), [
    ("{external: ftp://x}", "[1].external: 'ftp://x' is not an http(s) URL"),
    ("{external: http://127.0.0.1/, timeot: 1s}", '[1].timeot: unknown key; did you mean "timeout"?'),
    ("{external: http://127.0.0.1/, accept: [x_user]}", "[1].accept[0]: 'x_user' is not for saying who is calling"),
    ("{external: http://127.0.0.1/, accept: [content-type]}", "[1].accept[0]: 'content-type' is not for saying who "
                                                            "is calling"),
    ("{timeout: 1s}", "[1].external: is missing"),
    ("kye", "[1]: 'kye' is none of key, jwt, introspection, basic, mtls"),
])  # fmt: skip
def test_a_service_that_decides_is_checked_like_any_section(entry, said):
    assert problems_of(model(f"auth: [key, {entry}]")) == [f"routes.yaml:3: models.m.auth{said}"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("fallback: [c]", "there is no model 'c'"),
        ("fallback: [a]", "'a' is this model itself"),
        ("fallback: [a@v1]", "'a@v1' is this model itself"),
        ("fallback: [b]", ""),
        ("fallback: [b@v1]", ""),
        ("fallback: [b], auth: []", "model 'b' takes key only, and this one others, too"),
        ("fallback: [b, a@v1]", "'a@v1' is this model itself"),
    ],
)
def test_a_fallback_is_another_model_that_takes_whoever_this_one_takes(options: str, said: str) -> None:
    found = problems_of(f"models:\n  a: {{{options}, {V1}}}\n  b: {{{V1}}}\n")
    assert [problem.partition("fallback")[2].partition(": ")[2] for problem in found] == ([said] if said else [])
