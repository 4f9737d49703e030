from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import dispatch
from gateway.core.dispatch import Directory, Target, as_served, header_text
from gateway.core.paths import normalise
from gateway.errors import BadRequest, ModelNotFound

segments = st.text("abAB09._~+=,-", min_size=1, max_size=4).filter(lambda text: text not in (".", "..", "versions"))
model_names = st.lists(segments, min_size=1, max_size=3).map("/".join)


def directory(*names: str, **aliases: str) -> Directory:
    found = Directory()
    for name in names:
        found.add_name(name, name)
    for alias, name in aliases.items():
        found.add_name(alias, name)
    return found


IRIS = directory("iris", "org", "org/llama", llama="org/llama")


def reach(path: str, model: str | None = None, version: str | None = None, host: str = "h") -> Target | None:
    return IRIS.target(host, path.encode(), model, version)


@pytest.mark.parametrize(
    ("path", "model", "version", "upstream"),
    [
        ("/models/iris/a/b", "iris", None, "/a/b"),
        ("/models/iris", "iris", None, "/"),
        ("/models/org/llama/a", "org/llama", None, "/a"),
        ("/models/org/a", "org", None, "/a"),
        ("/models/org%2Fllama/a", "org/llama", None, "/a"),
        ("/models/llama/versions/v2/a", "org/llama", "v2", "/a"),
        ("/models/iris/versions", "iris", None, "/versions"),
        ("/models/iris/versions/", "iris", None, "/versions/"),
        ("/v2/models/iris/infer", "iris", None, "/v2/models/iris/infer"),
        ("/v2/models/iris/versions/2/infer", "iris", "2", "/v2/models/iris/versions/2/infer"),
        ("/v1/models/iris:predict", "iris", None, "/v1/models/iris:predict"),
        ("/v1/models/iris/versions/2:predict", "iris", "2", "/v1/models/iris/versions/2:predict"),
    ],
)
def test_a_path_names_model_and_version(path: str, model: str, version: str | None, upstream: str) -> None:
    target = reach(path)
    assert target is not None
    assert (target.model, target.version, target.path.decode()) == (model, version, upstream)


@pytest.mark.parametrize("path", ["/models/nobody", "/models/", "/v2/models/x/infer", "/v1/models/iris:explode"])
def test_a_path_that_names_an_unknown_model_is_refused(path: str) -> None:
    with pytest.raises(ModelNotFound):
        reach(path)


@pytest.mark.parametrize("path", ["/", "/x", "/v1", "/v1/", "/v1/models", "/v2", "/v2/models", "/v2/health/ready"])
def test_other_paths_mean_no_model(path: str) -> None:
    assert reach(path) is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/x", "/v1/modelsx"])
def test_an_openai_path_leaves_the_model_to_the_body(path: str) -> None:
    assert reach(path) == Target("", None, path.encode(), is_in_body=True)


def test_an_openai_path_behind_a_name_leaves_the_version_to_the_body() -> None:
    target = reach("/models/iris/v1/completions")
    assert target is not None
    assert (target.model, target.path, target.is_in_body) == ("iris", b"/v1/completions", True)


def test_headers_win_over_what_the_path_says() -> None:
    target = reach("/models/iris/versions/v1/a", "llama", "v3")
    assert target is not None
    assert (target.model, target.version, target.path) == ("org/llama", "v3", b"/a")
    assert reach("/anything", "iris@v2") == Target("iris", "v2", b"/anything")
    assert reach("/anything", None, "v2") is None
    with pytest.raises(ModelNotFound):
        reach("/models/iris", "nobody")


def test_a_header_names_the_model_where_the_path_names_an_unknown_one() -> None:
    target = reach("/v2/models/unknown/infer", "iris")
    assert target is not None
    assert (target.model, target.path) == ("iris", b"/v2/models/unknown/infer")


@pytest.mark.parametrize(
    ("text", "found"),
    [("iris", ("iris", None)), ("llama", ("org/llama", None)), ("iris@v2", ("iris", "v2")), ("llama@a@b", None),
     ("nobody", None), ("iris@", None), ("@", None), ("", None), ("iris@v2@v3", None)],
)  # fmt: skip
def test_a_name_may_carry_a_version(text: str, found: tuple[str, str | None] | None) -> None:
    if found is not None:
        assert IRIS.named(text) == found
        return
    with pytest.raises(ModelNotFound):
        IRIS.named(text)


def test_a_name_with_an_at_sign_of_its_own_is_a_name_first() -> None:
    assert directory("a@b", "a").named("a@b") == ("a@b", None)


@given(st.sets(model_names, min_size=1, max_size=5), st.lists(segments, max_size=4), st.data())
def test_the_longest_known_name_wins_raw_or_encoded(names: set[str], tail: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(sorted(names)))
    spelt = quote(chosen, safe="") if data.draw(st.booleans()) else chosen
    path = normalise(("/models/" + "/".join([spelt, *tail])).encode())
    target = directory(*names).target("", path, None, None)
    assert target is not None
    whole = "/".join([chosen, *tail])
    rivals = [name for name in names if whole == name or whole.startswith(name + "/")]
    if spelt == chosen:
        assert target.model == max(rivals, key=len)
    else:
        assert target.model.startswith(chosen)


# --- hosts and prefixes ---


def matching() -> Directory:
    found = directory("iris")
    for host, prefix, model in (
        ("a.example", None, "host"), ("a.example", "/deep", "host-deep"), (None, "/p", "p"), (None, "/p/q", "pq"),
    ):  # fmt: skip
        found.add_match(host, prefix, model)
    return found


@pytest.mark.parametrize(
    ("host", "path", "model"),
    [
        ("a.example", "/x", "host"),
        ("a.example", "/deep/x", "host-deep"),
        ("a.example", "/deeper", "host"),
        ("a.example", "/p/x", "host"),
        ("a.example", "/models/iris", "host"),
        ("b.example", "/p", "p"),
        ("b.example", "/p/x", "p"),
        ("b.example", "/p/q", "pq"),
        ("b.example", "/p/qq", "p"),
        ("b.example", "/px", None),
    ],
)
def test_the_most_exact_host_wins_and_then_the_longest_prefix(host: str, path: str, model: str | None) -> None:
    target = matching().target(host, path.encode(), None, None)
    assert (target.model if target else None) == model
    if target is not None:
        assert target.path == path.encode()


def test_what_was_found_once_is_found_again_and_what_is_remembered_is_bounded() -> None:
    found = directory("iris")
    first = found.target("h", b"/models/iris/x", None, None)
    assert found.target("h", b"/models/iris/x", None, None) == first
    for number in range(dispatch._REMEMBERED + 10):
        found.target("h", b"/models/iris/%d" % number, None, None)
    assert len(found.known) <= dispatch._REMEMBERED
    assert found.target("h", b"/models/iris/x", None, None) == first


# --- what the upstream is told ---


def served(
    path: str, model: str, version: str | None, *, x_model: str | None = None, x_version: str | None = None
) -> str:
    target = reach(path, x_model, x_version)
    assert target is not None
    return as_served(target, model, version).decode()


@pytest.mark.parametrize(
    ("path", "model", "version", "told"),
    [
        ("/v2/models/iris/infer", "iris", None, "/v2/models/iris/infer"),
        ("/v2/models/iris/versions/2/infer", "iris", None, "/v2/models/iris/versions/2/infer"),
        ("/v2/models/iris/versions/2/infer", "iris", "7", "/v2/models/iris/versions/7/infer"),
        ("/v2/models/iris/infer", "iris", "7", "/v2/models/iris/versions/7/infer"),
        ("/v2/models/llama/infer", "org/llama", None, "/v2/models/org/llama/infer"),
        ("/v2/models/org%2Fllama/infer", "org/llama", None, "/v2/models/org%2Fllama/infer"),
        ("/v2/models/org/llama/infer", "a b", None, "/v2/models/a%20b/infer"),
        ("/v1/models/llama:predict", "x", None, "/v1/models/x:predict"),
        ("/v1/models/llama/versions/2:predict", "x", "3", "/v1/models/x/versions/3:predict"),
        ("/models/llama/a", "x", "3", "/a"),
    ],
)
def test_the_path_names_model_and_version_as_the_upstream_knows_them(
    path: str, model: str, version: str | None, told: str
) -> None:
    assert served(path, model, version) == told


def test_a_version_in_the_path_gives_way_to_the_one_in_a_header() -> None:
    path, told = "/v2/models/iris/versions/1/infer", "/v2/models/iris/versions/2/infer"
    assert served(path, "iris", None, x_version="2") == told
    assert served(path, "iris", None, x_model="iris@2") == told
    assert served(path, "iris", None, x_model="iris@3", x_version="2") == told
    assert served("/v2/models/iris/infer", "iris", None, x_version="2") == "/v2/models/iris/infer"
    assert served("/v2/models/iris/infer", "x", None, x_version="2") == "/v2/models/x/infer"
    assert served(path, "x", None, x_version="2") == "/v2/models/x/versions/2/infer"


def test_a_header_is_text_or_refused() -> None:
    assert header_text(b" iris ") == "iris"
    assert header_text("é".encode()) == "é"
    with pytest.raises(BadRequest):
        header_text(b"\xff")
