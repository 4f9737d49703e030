"""The reference of routes.yaml, made of `Settings`: tables of every key for people, a JSON Schema for editors."""

import re
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.policies import ModelDefaults, ModelSettings
from gateway.config.settings import Settings
from gateway.config.shape import fields_of, section_of, unwrap
from gateway.config.values import Kind

_NOTES = ("title", "description", "default", "examples")
_VARIABLE = {"type": "string", "pattern": r"\$\{"}  # ${NAME} may stand for any scalar
_NAMED = {"models": "NAME", "versions": "VERSION"}  # how a table calls the keys that people choose
_BOUNDS = {"gt": "above", "ge": "from", "le": "to"}
_WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number", dict: "mapping"}

Places = dict[type[BaseModel], list[str]]


# --- for people -------------------------------------------------------------------------------------------------------


def tables() -> str:
    """Markdown: a table for each section, in the order of the file."""
    places: Places = {}
    _find_places(Settings, "", places)
    return "\n\n".join(_table(section, places) for section in places)


def _find_places(section: type[BaseModel], place: str, places: Places) -> None:
    """Where each section may stand; what is in it is told at the first place only."""
    known = places.setdefault(section, [])
    known.append(place)
    if len(known) > 1:
        return
    for name, annotation in fields_of(section).items():
        below = section_of(annotation)
        if below is not None and below is not ModelDefaults:
            shape = get_origin(unwrap(annotation))
            suffix = {list: "[]", dict: f".{_NAMED.get(name, 'NAME')}"}.get(shape, "")
            _find_places(below, f"{place}.{name}{suffix}".removeprefix("."), places)


def _table(section: type[BaseModel], places: Places) -> str:
    first, *others = places[section]
    lines = [f"### `{first}`" if first else "### The file", "", _text(section.__doc__ or "")]
    if others:
        lines += ["", f"The same: {', '.join(f'`{place}`' for place in others)}."]
    lines += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    for name, annotation in fields_of(section).items():
        field = section.model_fields[name]
        cells = (f"`{name}`", _type(annotation, places) + _range(field), _default(field), field.description or "")
        lines.append("| " + " | ".join(_text(cell).replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _type(annotation: Any, places: Places) -> str:
    kinds = [each.name for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Kind)]
    if kinds:
        return kinds[0]
    if get_args(annotation):
        return _compound(annotation, places)
    if issubclass(annotation, BaseModel):
        place = places[ModelSettings if annotation is ModelDefaults else annotation][0]
        return f"[mapping](#{re.sub(r'[^a-z0-9_-]', '', place.lower())})"
    return _WORDS[annotation]


def _compound(annotation: Any, places: Places) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_type(arguments[0], places)}"
    if origin is dict:
        return f"mapping of {' to '.join(_type(each, places) for each in arguments)}"
    kept = arguments[:1] if origin is Annotated else [each for each in arguments if each is not type(None)]
    return " or ".join(_type(each, places) for each in kept) + (" or null" if type(None) in arguments else "")


def _range(field: FieldInfo) -> str:
    """The bounds of a number; a `Kind` knows its own."""
    if any(isinstance(each, Kind) for each in field.metadata):
        return ""
    bounds = [(word, getattr(each, name, None)) for each in field.metadata for name, word in _BOUNDS.items()]
    return "".join(f", {word} {bound}" for word, bound in bounds if bound is not None)


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
    if "oneOf" in node:
        node["anyOf"] = node.pop("oneOf")
    if "anyOf" in node:
        return node | {"anyOf": _eased_choice(node["anyOf"])}
    if _is_narrow(node):
        notes = {key: value for key, value in node.items() if key in _NOTES}
        return notes | {"anyOf": [{key: value for key, value in node.items() if key not in _NOTES}, _VARIABLE]}
    return _with_text(node)


def _eased_choice(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    eased = [_eased(each) if "properties" in each else _with_text(each) for each in members]
    return [*eased, _VARIABLE] if any(map(_is_narrow, eased)) else eased


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
