"""Every text file is UTF-8 whatever the environment says, and what a terminal cannot show does not end a command."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lanit.cli import COMMANDS
from lanit.config import LanitError, read_options

ROOT = Path(__file__).parents[1]
PYTHON = [path for folder in ("lanit", "workflow", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]
TEXT = {"read_text", "write_text", "open", "fdopen", "TextIOWrapper", "NamedTemporaryFile", "TemporaryFile"}


def without_encoding(source: str) -> list[str]:
    """The calls that read or write text in the encoding of the environment."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)] + [
            told.get("mode", "")
        ]
        binary = any(isinstance(mode, str) and re.fullmatch(r"'?[rwxa+]*b[rwxa+]*'?", mode) for mode in modes)
        text = name in TEXT and not binary
        if name == "open" and isinstance(call.func, ast.Attribute):  # a path's; not tarfile's, Image's, os's …
            text = text and (not call.args or any(mode in ("r", "w", "a", "x") for mode in modes))
        pipes = told.get("text") == "True" or told.get("universal_newlines") == "True"
        if (text or pipes) and "encoding" not in told:
            found.append(f"line {call.lineno}: {ast.unparse(call)[:80]}")
    return found


@pytest.mark.parametrize("path", PYTHON, ids=[str(path.relative_to(ROOT)) for path in PYTHON])
def test_modules_name_the_encoding_of_text(path):
    assert without_encoding(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", RULES, ids=[path.name for path in RULES])
def test_rules_name_the_encoding_of_text(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\.(?:read|write)_text\((?!.*encoding)|(?<![\w.])open\((?!.*encoding)", text) == []


def test_the_search_finds_what_it_should():
    bad = ["p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open('a')", "subprocess.run(x, text=True)"]
    good = ["open(p, 'rb')", "p.open('wb')", "open(p, encoding='utf-8')", "Image.open(p)", "os.open(p, os.O_RDONLY)"]
    assert [bool(without_encoding(line)) for line in bad] == [True] * len(bad)
    assert [bool(without_encoding(line)) for line in good] == [False] * len(good)


@pytest.fixture(params=["latin-1", "ascii"])
def narrow(request) -> dict[str, str]:
    """An environment whose encoding has no …; the second has no ü either."""
    return os.environ | {
        "PYTHONIOENCODING": request.param,
        "PYTHONUTF8": "0",
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
    }


def run(environment: dict[str, str], *command: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    environment = environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True)


HELPS = r"""
from lanit.cli import COMMANDS, main
for command in ([], *([name] for name in COMMANDS)):
    try:
        main([*command, "--help"])
    except SystemExit as left:
        assert left.code == 0
print("\u2026")
"""


def test_every_help_is_printed_in_any_encoding(narrow):
    result = run(narrow, "-c", HELPS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(b"usage: lanit") == 1 + len(COMMANDS) and result.stdout.strip().endswith(rb"\u2026")


def test_files_are_utf_8_and_what_is_printed_of_them_ends_nothing(narrow, tmp_path):
    (tmp_path / "options.yaml").write_text("grün…: 3\n", encoding="utf-8")
    code = "from lanit.config import read_options; print(ascii(read_options('options.yaml')))"
    assert run(narrow, "-c", code, folder=tmp_path).stdout.strip() == rb"{'gr\xfcn\u2026': 3}"
    label = [
        "label",
        "--texts",
        "t",
        "--embeddings",
        "e",
        "--manifest",
        "m",
        "--output",
        "o",
        "--options",
        "options.yaml",
    ]
    result = run(narrow, "-m", "lanit", *label, folder=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert b"unknown key" in result.stderr and rb"\u2026" in result.stderr


def test_an_options_file_of_another_encoding_is_named(tmp_path):
    (tmp_path / "options.yaml").write_bytes("name: grün".encode("latin-1"))
    with pytest.raises(LanitError, match="options.yaml is not UTF-8 text"):
        read_options(str(tmp_path / "options.yaml"))
