"""What pydantic finds wrong, in the words of routes.yaml."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import Path
from gateway.config.settings import Settings
from gateway.config.shape import fields_of, section_at


def findings(error: ValidationError) -> list[tuple[Path, str]]:
    """Each mistake as (where, what)."""
    return [(_path(each), _message(each)) for each in error.errors(include_url=False)]


@lru_cache(maxsize=1024)  # the same mistake in many models
def nearest(name: str, known: tuple[str, ...]) -> str:
    """` did you mean "x"?` where something like it is known, else all that is."""
    close = get_close_matches(name, known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"


def _path(error: ErrorDetails) -> Path:
    """Without the names of alternatives, which are in brackets (`[key]` is pydantic's own)."""
    return tuple(step for step in error["loc"] if not str(step).startswith("["))


def _message(error: ErrorDetails) -> str:
    if error["input"] is None:
        return "has no value"
    return _MESSAGES.get(error["type"], _other)(error)


def _unknown(error: ErrorDetails) -> str:
    *parent, name = _path(error)
    section = section_at(Settings, tuple(parent))
    return f"unknown key; {nearest(str(name), tuple(fields_of(section)) if section else ())}"


def _not_one_of(error: ErrorDetails) -> str:
    known = [word.strip("'") for word in str(error["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
    return f"{_shown(error['input'])} is none of {', '.join(known)}"


def _expected(what: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"expected {what}, found {_shown(error['input'])}"


def _bound(words: str, name: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"{_shown(error['input'])} is not {words} {error['ctx'][name]:g}"


def _other(error: ErrorDetails) -> str:
    return error["msg"][:1].lower() + error["msg"][1:]


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    for kind, name in ((dict, "a mapping"), (list, "a list"), (tuple, "a list")):
        if isinstance(value, kind):
            return name
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


_MESSAGES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda error: "is missing",
    "extra_forbidden": _unknown,
    "value_error": lambda error: str(error["ctx"]["error"]),
    "literal_error": _not_one_of,
    "string_type": _expected("text"),
    "path_type": _expected("a path"),
    "list_type": _expected("a list"),
    "dict_type": _expected("a mapping"),
    "model_type": _expected("a mapping"),
    "model_attributes_type": _expected("a mapping"),
    "int_type": _expected("a whole number"),
    "int_parsing": _expected("a whole number"),
    "int_from_float": _expected("a whole number"),
    "int_parsing_size": _expected("a smaller number"),
    "float_type": _expected("a number"),
    "float_parsing": _expected("a number"),
    "finite_number": _expected("a finite number"),
    "bool_type": _expected("true or false"),
    "bool_parsing": _expected("true or false"),
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": lambda error: f"needs at least {error['ctx']['min_length']}",
    "string_too_long": lambda error: f"is longer than {error['ctx']['max_length']} characters",
}
