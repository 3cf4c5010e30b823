"""What all sections share: strict types, and the few spellings of a value that are converted.

YAML 1.1 reads `1e-4` as text, and Snakemake passes every value of `--config` below the top level as
text. Such text becomes a number, a boolean or null where the key holds no text. An integer becomes
a float and 2.0 becomes 2, since `range` and the digests of settings tell them apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

LARGEST = 2**53 - 1  # of an integer: readers of JSON differ beyond it

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_RULE = (
    "must be 1 to 64 letters, digits, dots, underscores and hyphens, and start with a letter or a "
    "digit"
)
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A section of the configuration. It raises pydantic's ValidationError for a wrong value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _coerced(cls, value: Any, info: ValidationInfo) -> Any:
        return coerced(value, cls.model_fields[str(info.field_name)].annotation)

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> Self:
        """The section with only the keys that a stage's settings hold.

        Reading another key raises AttributeError: its default may not be what the user wrote, and a
        change of it would not re-run the stage.
        """
        section = cls.model_validate(dict(values))
        for name in cls.model_fields.keys() - section.model_fields_set:
            del section.__dict__[name]
        return section


def matching(pattern: str, rule: str) -> Callable[[str], str]:
    """A validator of text that must fully match a regular expression; `rule` is its message."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("pattern", "{rule}", {"rule": rule})
        return text

    return check


Name = Annotated[str, AfterValidator(matching(NAME, NAME_RULE))]  # of what becomes a path


def distinct(values: list[Any]) -> list[Any]:
    """A validator of lists whose entries must be different."""
    if any(value in values[:index] for index, value in enumerate(values)):
        raise PydanticCustomError("distinct", "its entries must be different")
    return values


def alternatives(annotation: Any) -> list[Any]:
    """The types that an annotation allows: `int | None` gives int and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    return [str] if origin is Literal else [annotation]


def is_section(kind: Any) -> bool:
    """Whether a type is that of a section."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def is_mapping(kind: Any) -> bool:
    """Whether values of a type are written as a mapping."""
    return get_origin(kind) is dict or is_section(kind)


def item_type(kinds: Sequence[Any]) -> Any:
    """The type of the items, if one of the types is a list."""
    return next((get_args(kind)[0] for kind in kinds if get_origin(kind) is list), None)


def coerced(value: Any, annotation: Any) -> Any:
    """`value` converted to the type of its key; unchanged if the key cannot hold it."""
    kinds = alternatives(annotation)
    if value is None and len(kinds) == 1 and is_mapping(kinds[0]):
        return {}  # an overlay may empty a section by writing `train:` and nothing below it
    if isinstance(value, list):
        item = item_type(kinds)
        return value if item is None else [coerced(inner, item) for inner in value]
    if isinstance(value, str) and str not in kinds:
        value = _parsed(value, kinds)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # .nan would pass checks of ranges; as text it is refused
    if isinstance(value, float) and value.is_integer() and int in kinds:
        value = int(value)
    if type(value) is int and (int in kinds or float in kinds):
        if abs(value) > LARGEST:
            bound = f"most {LARGEST}" if value > 0 else f"least {-LARGEST}"
            raise PydanticCustomError("too_large", "must be at {bound}", {"bound": bound})
        return value if int in kinds else float(value)
    return value


def _parsed(text: str, kinds: Sequence[Any]) -> Any:
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                pass
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if NoneType in kinds and text.lower() in ("null", "none"):
        return None
    return text
