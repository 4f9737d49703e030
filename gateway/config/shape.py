"""What every section of routes.yaml has in common, and how to walk from one to the next by the keys of the file."""

import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """An unknown key is an error; a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(default: Any, meaning: str, **rules: Any) -> Any:
    """A key that may be absent. The default is read as if it stood in the file, so that it is checked and anchored."""
    return Field(default, description=meaning, validate_default=True, **rules)


def needed(meaning: str, **rules: Any) -> Any:
    """A key that must be there."""
    return Field(description=meaning, **rules)


def unwrap(annotation: Any) -> Any:
    """The type itself: without Annotated and None; of several alternatives the section, if there is one."""
    if get_origin(annotation) is Annotated:
        return unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [unwrap(each) for each in get_args(annotation) if each is not types.NoneType]
        sections = [each for each in kept if isinstance(each, type) and issubclass(each, BaseModel)]
        return kept[0] if len(kept) == 1 else sections[0] if len(sections) == 1 else annotation
    return annotation


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds, itself or in a list or mapping; None if it holds values only."""
    kind = unwrap(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return section_of(get_args(kind)[-1]) if get_origin(kind) in (list, dict) else None


@cache  # asked about each unknown key
def fields_of(section: type[BaseModel]) -> dict[str, Any]:
    """The keys of a section with their whole annotations, in the order of the file."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.model_fields}


def section_at(root: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The section that `path` leads to from `root`; None if it leads to a value, or nowhere."""
    kind: Any = root
    for step in path:
        kind = unwrap(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = fields_of(kind).get(str(step))
        else:
            kind = get_args(kind)[-1] if get_origin(kind) in (list, dict) else None
    kind = unwrap(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
