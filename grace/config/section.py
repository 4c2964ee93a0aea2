"""What a section of settings is, and how a wrong one becomes a sentence."""

from __future__ import annotations

import base64
import zlib
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Of numbers: counts and seeds fit 32 bits, and what is larger than MOST, or a rate smaller than LEAST, can only be a
# mistake: products of such numbers leave float32. Every other float is finite, which `Section` sees to.
LARGEST, MOST, LEAST = 2**31 - 1, 1e6, 1e-12
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Rate = Annotated[float, Field(ge=LEAST, le=MOST)]
Weight = Annotated[float, Field(ge=0, le=MOST)]
Signed = Annotated[float, Field(ge=-MOST, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Temperature = Weight  # 0: greedy
Text = Annotated[str, Field(min_length=1)]
# A name becomes a folder and a wildcard, so it holds no slash and no leading dot.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]


class UserError(Exception):
    """A user's mistake. The message is one sentence: what, where, and what to do."""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, and numbers that are not finite.

    A number may come as text: `snakemake --config` passes nested values on as strings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PACKED = "zlib:"
LONG = 60_000  # characters; Linux takes 128 KiB in one argument of a command


def packed(text: str) -> str:
    """A spec as it goes on a command line: a long one is compressed."""
    if len(text) <= LONG:
        return text
    return PACKED + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> str:
    """The spec that `packed` has made this of."""
    given = text.removeprefix(PACKED)
    return text if given == text else zlib.decompress(base64.b64decode(given)).decode()


def hint(name: str, known: Any) -> str:
    names = sorted(map(str, known))  # a YAML key may be a number
    near = get_close_matches(str(name), names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(names[:12])})"


def merge(base: dict, over: dict) -> dict:
    """`over` on top of `base`, dictionaries key by key, anything else replaced.

    Raises:
        UserError: where keys would replace a value that is none.
    """
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and not isinstance(out.get(key), dict | None):
            raise UserError(f"config: {key}: it is {out[key]!r} in one place and has keys in another; give keys.")
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def build(kind: type[Section], values: Any, where: str) -> Any:
    """Validate `values` as the section `kind`.

    Raises:
        UserError: one sentence that names the key (`where` + its path) and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
        if first["type"] == "extra_forbidden":
            *parents, key = first["loc"]
            section: Any = kind
            for part in parents:
                annotation = section.model_fields[part].annotation if hasattr(section, "model_fields") else None
                section = annotation if isinstance(annotation, type) else None
            known = getattr(section, "model_fields", {})
            raise UserError(f"config: {path}: unknown key{hint(str(key), known) if known else ''}.") from None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise UserError(f"config: {path}: this key is missing.") from None
        if first["type"] == "value_error":  # our own messages start with the key
            key, _, rest = message.partition(": ")
            raise UserError(f"config: {path}.{key}: {rest}.") from None
        raise UserError(f"config: {path}: {message} (it is {first['input']!r}).") from None
