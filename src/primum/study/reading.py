"""Settings in TOML: read, checked, and explained where they are wrong. Unknown keys are errors."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from primum.errors import StudyError
from primum.study.kinds import KINDS

_WHOLE, _NUMBER, _SWITCH = "must be a whole number", "must be a number", "must be true or false"
_DATE: Final = "must be a date, as 2030-12-31"
_MEANT: Final = "Did you mean"
_LIST: Final = "must be a list, as {example}"
_WORDS: Final = {
    "too_short": "lists {actual_length}, and at least {min_length} are needed",
    "too_long": "lists more than {max_length}, which are the most",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "string_pattern_mismatch": "must be text like {pattern}",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "model_type": "must be a section, [{key}]",
}
"""What pydantic found (its names of kinds of errors) in the words of whoever writes TOML."""

Settings = TypeVar("Settings", bound=BaseModel)


def read_text(path: Path) -> str:
    """The text of a settings file; StudyError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StudyError(f"{path} is not a text file.", "Give the path of a TOML file.") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None


def parse_toml(kind: type[Settings], text: str, source: str) -> Settings:
    """The TOML in `text` as `kind`; StudyError naming `source` and the line or key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{source} is not valid TOML: {error}.", "Mend that line.") from None
    return parse_settings(kind, data, source)


def parse_settings(kind: type[Settings], data: dict[str, Any], source: str) -> Settings:
    """`data` as `kind`; StudyError naming `source` and the key; an unknown key is an error with the nearest one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise StudyError(*_explain(kind, error, source)) from None


def _explain(kind: type[BaseModel], error: ValidationError, source: str) -> tuple[str, str]:
    """What is wrong with the first key, with its hint, and in short what is wrong with the others."""
    told: dict[str, tuple[str, str]] = {}
    for one in error.errors():
        key = ".".join(str(part) for part in one["loc"] if str(part) not in KINDS)
        told.setdefault(key, _explain_key(kind, dict(one), key))
    apart = {key: one for key, one in told.items() if not any(other.startswith(f"{key}.") for other in told)}
    (what, hint), *others = apart.values()
    return f"{source}: {together(what, *(_in_short(*other) for other in others))}.", hint


def together(first: str, *others: str) -> str:
    """Several faults in one message, without a full stop."""
    return f"{first}. Also: {'; '.join(others)}" if others else first


def _in_short(what: str, hint: str) -> str:
    """With the key that was meant, if one is near."""
    return f"{what} ({hint[0].lower()}{hint[1:]})" if hint.startswith(_MEANT) else what


def _explain_key(kind: type[BaseModel], error: dict[str, Any], key: str) -> tuple[str, str]:
    """What is wrong with one key, without a full stop, and the hint."""
    places = [str(part) for part in error["loc"]]
    if error["type"] == "union_tag_invalid":
        return f"{key}.kind = {error['ctx']['tag']!r} is none of {', '.join(KINDS)}", "Take one of them."
    if error["type"] == "extra_forbidden":
        *before, last = key.split(".")
        known = _keys_at(kind, places[:-1])
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.4)
        hint = f"{_MEANT} {'.'.join([*before, near[0]])}?" if near else f"Known here: {', '.join(known)}."
        return f"unknown key {key}", hint
    if error["type"] == "missing":
        return f"{key} is missing", "Add it; `primum new study` writes a commented example."
    return f"{key + ': ' if key else ''}{_in_our_words(error, key)}", "Mend that value."


def _in_our_words(error: dict[str, Any], key: str) -> str:
    """What is wrong with the value of `key`, as its writer would say it; the library's words where there are none."""
    if (words := _WORDS.get(error["type"])) is not None:
        given = error["input"]
        example = f"[{given}]" if isinstance(given, int | float) else '["one", "another"]'
        return words.format(key=key, example=example, **error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _keys_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part in KINDS:
            kind = KINDS[part]
            continue
        annotation: Any = kind.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        kind = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), kind)
    return list(kind.model_fields)
