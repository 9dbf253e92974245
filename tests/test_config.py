"""Options: strict, typed, and a mistake named in one sentence."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from lanit.cli import main
from lanit.config import Count, LanitError, Positive, Share, Weight, Within, digest, parse, read_options


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    names: list[str]
    inner: Inner = field(default_factory=Inner)
    pair: tuple[float, float] = (0.0, 0.5)
    place: Path | None = None
    counts: dict[str, int] = field(default_factory=dict)


def test_nested_values_are_converted_and_defaults_filled():
    found = parse(Outer, {"names": ["x"], "inner": {"rate": 2}, "pair": [1, 2], "place": "a/b", "counts": {"k": 3}})
    assert found == Outer(["x"], Inner(2.0), (1.0, 2.0), Path("a/b"), {"k": 3})
    assert isinstance(found.inner.rate, float)
    assert parse(Outer, {"names": [], "place": None}).place is None


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "options lacks the key 'names'"),
        ({"names": ["x"], "iner": {}}, "options has an unknown key 'iner'; did you mean 'inner'"),
        ({"names": ["x"], "inner": {"rate": "fast"}}, "options.inner.rate must be of type float, not 'fast'"),
        ({"names": ["x"], "inner": {"rate": True}}, "options.inner.rate must be of type float, not True"),
        ({"names": ["x"], "inner": {"kind": "c"}}, "options.inner.kind must be one of a, b, not 'c'"),
        ({"names": "x"}, "options.names must be a list, not 'x'"),
        ({"names": ["x"], "inner": 3}, "options.inner must be a mapping, not 3"),
        ({"names": ["x"], "counts": {"k": 1.5}}, "options.counts.k must be of type int, not 1.5"),
    ],
)
def test_a_mistake_names_its_key(values, message):
    with pytest.raises(LanitError) as error:
        parse(Outer, values)
    assert message in str(error.value)


def test_a_tuple_keeps_its_length():
    with pytest.raises(LanitError, match="options.pair must hold 2 values, not 3"):
        parse(Outer, {"names": [], "pair": [1, 2, 3]})


def test_options_come_as_json_or_from_a_file(tmp_path):
    path = tmp_path / "o.yaml"
    path.write_text("{a: 1, b: [x]}")
    assert read_options(str(path)) == {"a": 1, "b": ["x"]} == read_options('{"a": 1, "b": ["x"]}')
    for text, message in ((str(tmp_path / "no.yaml"), "no options file at"), ("{bad", "not valid JSON")):
        with pytest.raises(LanitError, match=message):
            read_options(text)
    path.write_text("- a")
    with pytest.raises(LanitError, match="must hold a mapping"):
        read_options(str(path))
    path.write_text("a: [")
    with pytest.raises(LanitError, match="not valid YAML"):
        read_options(str(path))


def test_a_digest_depends_on_values_and_not_on_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert digest(Inner()) == digest({"rate": 0.1, "kind": "a"})


def test_the_command_line_says_what_is_wrong_and_exits_2(capsys, tmp_path):
    assert main(["train", "--options", "nowhere.yaml", "--manifest", "m", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lanit train: error: no options file at nowhere.yaml") and error.count("\n") == 1


@dataclass(frozen=True)
class Ranges:
    count: Count = 1
    weight: Weight = 0.0
    positive: Positive = 1.0
    share: Share = 0.5
    momentum: Annotated[float, Within(0, 1, below=True)] = 0.5
    many: tuple[Weight, Weight] = (0.0, 0.0)
    maybe: Count | None = None
    plain: float = 0.0


@pytest.mark.parametrize(
    "values",
    [
        {"count": 1, "weight": 0, "share": 0, "momentum": 0, "positive": 1e-300},
        {"count": 10**9, "weight": 1e30, "share": 1, "momentum": 0.999, "many": [0, 2]},
        {"maybe": None},
        {"maybe": 3},
    ],
)
def test_numbers_in_their_range_pass_its_ends_included(values):
    found = parse(Ranges, values)
    assert all(getattr(found, key) == (tuple(value) if key == "many" else value) for key, value in values.items())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"count": 0}, "options.count must be at least 1, not 0"),
        ({"weight": -0.1}, "options.weight must be at least 0, not -0.1"),
        ({"positive": 0}, "options.positive must be above 0, not 0"),
        ({"share": 1.01}, "options.share must be at least 0 and at most 1, not 1.01"),
        ({"share": -0.01}, "options.share must be at least 0 and at most 1, not -0.01"),
        ({"momentum": 1}, "options.momentum must be at least 0 and below 1, not 1"),
        ({"many": [0, -1]}, "options.many[1] must be at least 0, not -1"),
        ({"maybe": 0}, "options.maybe must be at least 1, not 0"),
        ({"weight": float("nan")}, "options.weight must be a finite number, not nan"),
        ({"weight": float("inf")}, "options.weight must be a finite number, not inf"),
        ({"plain": float("-inf")}, "options.plain must be a finite number, not -inf"),
        ({"plain": "1e999"}, "options.plain must be a finite number, not inf"),
        ({"count": 2.0}, "options.count must be of type int, not 2.0"),
        ({"count": "1e3"}, "options.count must be of type int, not '1e3'"),
        ({"weight": "-1e-4"}, "options.weight must be at least 0, not '-1e-4'"),
        ({"weight": "1"}, "options.weight must be of type float, not '1'"),
        ({"weight": "e-4"}, "options.weight must be of type float, not 'e-4'"),
        ({"weight": "nan"}, "options.weight must be of type float, not 'nan'"),
        ({"weight": True}, "options.weight must be of type float, not True"),
    ],
)
def test_a_number_out_of_its_range_names_its_key_and_what_would_be_right(values, message):
    with pytest.raises(LanitError) as error:
        parse(Ranges, values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text, value", [("1e-4", 1e-4), ("2E3", 2000.0), ("+1.5e+2", 150.0), (".5e1", 5.0), ("1.e0", 1)]
)
def test_a_number_that_yaml_reads_as_text_is_a_number(text, value):
    import yaml

    found = parse(Ranges, {"plain": yaml.safe_load(text)}).plain
    assert found == value and isinstance(found, float)
