"""The reference of routes.yaml, made of `Settings`: tables of every key for people, a JSON Schema for editors."""

import re
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.policies import ModelDefaults, ModelSettings
from gateway.config.settings import Settings
from gateway.config.shape import fields_of, section_of, unwrap
from gateway.config.values import Kind

_NOTES = ("title", "description", "default", "examples")
_VARIABLE = {"type": "string", "pattern": r"\$\{"}  # ${NAME} may stand for any scalar
_NAMED = {"models": "NAME", "versions": "VERSION"}  # how a table calls the keys that people choose
_WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number", dict: "mapping"}


# --- for people -------------------------------------------------------------------------------------------------------


def tables() -> str:
    """Markdown: a table for each section, in the order of the file."""
    parts: list[str] = []
    headings: dict[type[BaseModel], str] = {}
    _name_sections(Settings, "", headings)
    for section, heading in headings.items():
        title = f"### `{heading}`" if heading else "### The file"
        rows = [_row(name, section, annotation, headings) for name, annotation in fields_of(section).items()]
        head = ["| key | type | default | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([title, "", _text(section.__doc__ or ""), "", *head, *rows]))
    return "\n\n".join(parts)


def _name_sections(section: type[BaseModel], heading: str, headings: dict[type[BaseModel], str]) -> None:
    """Give every section the place where it comes first, as its heading."""
    headings[section] = heading
    for name, annotation in fields_of(section).items():
        below = section_of(annotation)
        if below is None or below in headings or below is ModelDefaults:
            continue
        place = f"{heading}.{name}" if heading else name
        shape = get_origin(unwrap(annotation))
        place += {list: "[]", dict: f".{_NAMED.get(name, 'NAME')}"}.get(shape, "")
        _name_sections(below, place, headings)


def _row(name: str, section: type[BaseModel], annotation: Any, headings: dict[type[BaseModel], str]) -> str:
    field = section.model_fields[name]
    cells = (f"`{name}`", _type(annotation, headings) + _range(field), _default(field), field.description or "")
    return "| " + " | ".join(_text(cell).replace("|", r"\|") for cell in cells) + " |"


def _type(annotation: Any, headings: dict[type[BaseModel], str]) -> str:
    kinds = [each.name for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Kind)]
    if kinds:
        return kinds[0]
    kind = unwrap(annotation)
    if annotation is not kind and kind is not None:
        empty = type(None) in get_args(annotation)
        return _type(_alternative(annotation), headings) + (" or null" if empty else "")
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_type(get_args(kind)[0], headings)}"
    if get_origin(kind) is dict:
        return f"mapping of {' to '.join(_type(each, headings) for each in get_args(kind))}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        heading = headings[ModelSettings if kind is ModelDefaults else kind]
        return f"[mapping](#{re.sub(r'[^a-z0-9_-]', '', heading.lower())})"
    return _WORDS[kind]


def _alternative(annotation: Any) -> Any:
    """What an annotation wraps, one layer less: of `X | None` the X, of Annotated the type."""
    return next(each for each in get_args(annotation) if each is not type(None))


def _range(field: FieldInfo) -> str:
    if unwrap(field.annotation) is not int or any(isinstance(each, Kind) for each in field.metadata):
        return ""
    lows = [str(each.ge) for each in field.metadata if isinstance(each, Ge)]
    highs = [str(each.le) for each in field.metadata if isinstance(each, Le)]
    return "".join(f" from {low}" for low in lows) + "".join(f" to {high}" for high in highs)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.default
    if default == {} or (default is None and type(None) not in get_args(field.annotation)):
        return ""
    if default in ("", "-"):
        return f'`"{default}"`'
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{default if isinstance(default, str) else text}`"


def _text(text: str) -> str:
    return " ".join(text.split())


# --- for editors ------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file as people may write it: shorthands, ${NAME}, unquoted scalars as text."""
    whole = Settings.model_json_schema()
    whole["$defs"] = {name: _eased(section) for name, section in whole["$defs"].items()}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | _eased(whole) | {"title": "routes.yaml", "description": "The configuration of the gateway."}


def _eased(node: dict[str, Any]) -> dict[str, Any]:
    """A schema that also takes what the loader takes: a variable for any scalar, any scalar for a text."""
    node = dict(node)
    if "properties" in node:
        node["properties"] = {name: _eased(value) for name, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _eased(node[key])
    if "anyOf" in node:
        members = [_with_text(_eased(each) if "properties" in each else each) for each in node["anyOf"]]
        return node | {"anyOf": [*members, _VARIABLE] if any(map(_is_narrow, members)) else members}
    if _is_narrow(node):
        notes = {key: value for key, value in node.items() if key in _NOTES}
        rules = {key: value for key, value in node.items() if key not in _NOTES}
        return notes | {"anyOf": [rules, _VARIABLE]}
    return _with_text(node)


def _with_text(node: dict[str, Any]) -> dict[str, Any]:
    if node.get("type") == "string" and not {"pattern", "format", "enum", "const"}.intersection(node):
        return node | {"type": ["string", "number", "boolean"]}
    return node


def _is_narrow(node: dict[str, Any]) -> bool:
    """Whether a scalar's schema would refuse the text `${NAME}`."""
    is_typed = node.get("type") in ("integer", "number", "boolean")
    return (
        is_typed or bool({"enum", "const"}.intersection(node)) or (node.get("type") == "string" and "pattern" in node)
    )
