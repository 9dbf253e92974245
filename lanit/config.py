"""Options of a command: strict dataclasses filled from JSON or YAML, and the one error a user sees.

Every other module may import this one; it imports none of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import subprocess
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclasses.dataclass(frozen=True)
class Within:
    """The range of a number, as in `Annotated[float, Within(0, 1)]`; no number may be NaN or infinite.

    Attributes:
        low, high: the ends; None is none.
        above, below: the low end, the high end is not in it.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Is the value in the range?"""
        over = self.low is None or (value > self.low if self.above else value >= self.low)
        return over and (self.high is None or (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low = None if self.low is None else f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        high = None if self.high is None else f"below {self.high:g}" if self.below else f"at most {self.high:g}"
        return " and ".join(filter(None, (low, high)))


Count = Annotated[int, Within(1)]
Weight = Annotated[float, Within(0)]
Positive = Annotated[float, Within(0, above=True)]
Share = Annotated[float, Within(0, 1)]


class LanitError(Exception):
    """A mistake that a user can mend: the message is one sentence with what, where and what to do."""


def read_options(text: str) -> dict[str, Any]:
    """Return the mapping given as JSON text, or as the path of a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        LanitError: the text is neither, or what it holds is not a mapping.
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            text = f"the options given are not valid JSON ({error}); give JSON or the path of a file"
            raise LanitError(text) from None
    path = Path(text)
    if not path.is_file():
        raise LanitError(f"no options file at {text}; give the path of a JSON or YAML file, or JSON itself")
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise LanitError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise LanitError(f"{path} is not valid YAML or JSON ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise LanitError(f"{path} must hold a mapping of option names to values")
    return value


def parse(cls: type[T], values: dict[str, Any], where: str = "options") -> T:
    """Build the dataclass `cls` from a mapping, nested dataclasses included.

    Unknown keys, missing keys, values of another type and numbers out of their range are errors that name the key.
    Whole numbers pass as floats, lists as tuples, and "1e-4", which YAML reads as text, where a number is asked for.

    Args:
        cls: a dataclass type whose fields are str, int, float, bool, None, Path, list, tuple, dict, dataclasses, or
            numbers annotated with the range that they must lie `Within`.
        values: what the user gave.
        where: the path of `values` in the configuration, for the message.

    Raises:
        LanitError: with the key, what is wrong with it, and what would be right.
    """
    if not isinstance(values, dict):
        raise LanitError(f"{where} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
            raise LanitError(f"{where} has an unknown key {key!r}; {hint}")
    given = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise LanitError(f"{where} lacks the key {name!r}")
    return cls(**given)


def digest(values: Any) -> str:
    """Return 12 hexadecimal digits that stand for a JSON-like value, the same whatever the order of its keys."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        values = dataclasses.asdict(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_version() -> str:
    """The git revision of the code that runs, `-dirty` where tracked files differ; `unknown` outside a checkout.

    A copy without its `.git`, as a download is, has none, though it may lie in another repository.
    """
    checkout = Path(__file__).resolve().parents[1]
    # In a hook of another repository git's own variables name that one.
    named = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in named}

    def ask(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, env=environment
        ).stdout.strip()

    try:
        if Path(ask("rev-parse", "--show-toplevel")) != checkout:
            return "unknown"
        return ask("describe", "--always", "--abbrev=12", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = _convert(arguments[0], value, where)
        for within in arguments[1:]:
            if converted is not None and not within.holds(converted):
                raise LanitError(f"{where} must be {within}, not {value!r}")
        return converted
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        chosen = [argument for argument in arguments if argument is not type(None)]
        errors = []
        for argument in chosen:
            try:
                return _convert(argument, value, where)
            except LanitError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value not in arguments:
            raise LanitError(f"{where} must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise LanitError(f"{where} must be a list, not {value!r}")
        if origin is tuple and arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise LanitError(f"{where} must hold {len(arguments)} values, not {len(value)}")
        item = arguments[0] if arguments else Any
        return origin(_convert(item, element, f"{where}[{i}]") for i, element in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise LanitError(f"{where} must be a mapping, not {value!r}")
        return {_convert(arguments[0], k, where): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float:
        value = _as_float(value)
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        if hint is float and not math.isfinite(value):
            raise LanitError(f"{where} must be a finite number, not {value!r}")
        return value
    raise LanitError(f"{where} must be of type {getattr(hint, '__name__', hint)}, not {value!r}")


def _as_float(value: Any) -> Any:
    """Whole numbers as floats, and text in scientific notation: YAML 1.1 wants `1.0e-4`, people write 1e-4."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value
