"""The house: who imports whom, and each stage's name in its five places."""

import subprocess
import sys
from pathlib import Path

import pytest

from lanit.cli import COMMANDS

ROOT = Path(__file__).parents[1]
STAGES = ["shard", "embed", "label", "train", "translate", "evaluate", "compare"]


def test_no_import_goes_upwards_or_sideways():
    code = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_in_all_its_places(stage):
    module, _ = COMMANDS[stage]
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.stem == stage and path.is_file()
    rules = {"translate": "evaluate"}.get(stage, stage)
    assert (ROOT / "workflow" / "rules" / f"{rules}.smk").is_file()
    package = path.parent.name
    assert (ROOT / "tests" / package / f"test_{stage}.py").is_file()
    assert f"lanit {stage}" in (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_given_without_a_heavy_import(command):
    code = (
        "import sys; from lanit.cli import main\n"
        f"try: main(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'open_clip', 'pandas', 'mlflow', 'webdataset', 'matplotlib'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("loaded []"), done.stdout[-300:] + done.stderr


def test_files_are_of_a_size_that_can_be_read():
    long = {path: len(path.read_text().splitlines()) for path in ROOT.glob("lanit/**/*.py")}
    assert {str(path): lines for path, lines in long.items() if lines > 500} == {}
