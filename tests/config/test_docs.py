"""What is written about routes.yaml is true: generated files are current, examples are taken, the schema agrees."""

import json
import re
import runpy

import jsonschema_rs
import pytest
import yaml

from gateway.config.reference import schema, tables
from tests.config.routes_file import ROOT, problems_of, settings_of, warnings_of

EXAMPLES = re.findall(
    r"### (.*?)\n.*?```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text("utf-8"), re.DOTALL
)
ROUTES = (ROOT / "routes.yaml").read_text("utf-8")
SHOWCASES = re.sub(r"^( *)#(?=[^ #\n])", r"\1", ROUTES, flags=re.MULTILINE)
VALIDATOR = jsonschema_rs.Draft202012Validator(schema())


def disagreements(text):
    return [str(error) for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


def test_generated_files_are_current():
    for path, text in runpy.run_path(str(ROOT / "scripts/docs.py"))["outputs"]().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: run scripts/docs"


def test_the_example_at_the_root_is_what_scripts_serve_starts():
    demo = settings_of(ROUTES).models["demo"]
    urls = {name: ([endpoint.url for endpoint in v.endpoints], v.weight) for name, v in demo.versions.items()}
    assert urls == {"v1": (["http://127.0.0.1:9001"], 90), "v2": (["http://127.0.0.1:9002"], 10)}
    assert (demo.auth, demo.sticky, demo.health.path, len(demo.limits)) == (["key"], None, "/v2/health/ready", 1)
    assert warnings_of(ROUTES) == []


def test_the_showcases_of_the_root_example_work_when_their_comments_are_taken_off():
    settings = settings_of(SHOWCASES)
    assert list(settings.models) == ["demo", "meta-llama/Llama-3.1-8B", "whisper"]
    assert (len(settings.auth.jwt), len(settings.plugins)) == (1, 1)
    assert "\n#" not in "\n".join(SHOWCASES.splitlines()[7:]), "every showcase is taken off its comment"


def test_the_first_line_points_editors_to_the_schema():
    assert ROUTES.splitlines()[0] == "# yaml-language-server: $schema=docs/routes.schema.json"


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_every_example_of_the_reference_is_a_file_that_is_taken(title, text):
    assert problems_of(text) == []
    assert [warning for warning in warnings_of(text) if "public" not in warning] == []
    assert disagreements(text) == []


def test_there_are_examples():
    assert len(EXAMPLES) >= 10


def test_what_the_reference_says_about_mistakes_is_what_check_says():
    text = """\
        models:
          iris:
            limits:
              - {rate: 100/minute}
            versions:
              v1: {endpoints: [http://h:1]}
              v2: {endpoints: [http://h:1]}

            limitz: []


            default_version: v3
    """
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    assert problems_of(text)
    for problem in problems_of(text):
        assert f"\n{problem}\n" in page


def test_the_schema_takes_the_root_example_and_its_showcases():
    assert disagreements(ROUTES) == []
    assert disagreements(SHOWCASES) == []


def test_the_schema_is_one():
    assert jsonschema_rs.meta.is_valid(schema())
    assert json.loads((ROOT / "docs/routes.schema.json").read_text("utf-8")) == schema()


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {worker: 4}",
        "gateway: {workers: many}",
        "gateway: {workers: 0}",
        "gateway: {https: 8443}",
        "gateway: {shutdown: {grace: 5 parsecs}}",
        "defaults: {versions: {}}",
        "auth: {jwt: [{}]}",
        "models: {m: {}}",
        "models: {m: {versions: {v1: {endpoints: [{weight: 2}]}}}}",
        "models: {m: {versions: {v1: {endpoints: [{url: http://h, weight: 0}]}}}}",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, balance: {policy: fastest}}}",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, limits: [{rate: [5]}]}}",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, path: {regex: {pattern: x}}}}",
    ],
)
def test_editor_and_gateway_refuse_the_same(text):
    assert disagreements(text)
    assert problems_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {workers: '${W:-4}', https: '${H:-0.0.0.0:1}', shutdown: {grace: '${G:-5s}', delay: 2.5}}",
        "tls: {profile: '${P:-modern}', strict_sni: '${S:-true}'}",
        "auth: {jwt: [{issuer: i, jwks_file: f, audience: x}, {issuer: j, jwks_file: f, audience: [x, y]}]}",
        "plugins: [{use: a.B, anything: {at: [all]}}]",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, headers: {request: {set: {x-a: 42, x-b: true}}}}}",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, sticky: null, health: null, path: {regex: null}}}",
        "models: {m: {versions: {v1: {endpoints: [http://h], served_as: {version: 3}, weight: '${W:-1}'}}}}",
        "models: {m: {versions: {v1: {endpoints: [http://h]}}, body_bytes: 10MiB, json_bytes: 1024}}",
    ],
)
def test_editor_and_gateway_take_the_same(text, monkeypatch):
    for name in "WHGPS":
        monkeypatch.delenv(name, raising=False)
    assert problems_of(text) == []
    assert disagreements(text) == []


def test_every_link_of_the_tables_leads_somewhere():
    text = tables()
    headings = {re.sub(r"[^a-z0-9_-]", "", title.lower()) for title in re.findall(r"^### (.*)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links <= headings
    assert len(links) > 15


def test_every_row_of_the_tables_is_complete():
    rows = [line for line in tables().splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", row) for row in rows]
    assert {len(row) for row in cells} == {6}
    assert [row for row in cells if not row[2].strip() or not row[4].strip()] == []
