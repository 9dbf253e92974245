"""The environments: one list of versions for pip, for the rules under conda, and for development."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
EVERYTHING = [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]
RUNNING = [*PROJECT["dependencies"], *sum((EXTRAS[name] for name in EXTRAS.keys() - {"test", "slurm"}), [])]
# Of the Python that the environments name, on the system that they are for.
MARKERS = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "os_name": "posix"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins() -> dict[str, str]:
    """Package → its line in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


def read_environment(name: str) -> dict:
    return yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())


def pip_part(environment: dict) -> list[str]:
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


def needed_by(requirements: Iterable[str]) -> set[str]:
    """The packages that some need, with all that these need in turn."""
    seen: set[tuple[str, str]] = set()
    left = [Requirement(requirement) for requirement in requirements]
    while left:
        requirement = left.pop()
        for extra in {"", *requirement.extras} - {extra for name, extra in seen if name == normal(requirement.name)}:
            seen.add((normal(requirement.name), extra))
            for line in installed_requirements(requirement.name):
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate(MARKERS | {"extra": extra}):
                    left.append(needed)
    return {name for name, _ in seen}


def installed_requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # of another Python
        return []


def test_every_version_is_exact():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in read_pins().values())


def test_every_package_that_pip_installs_has_a_version():
    """But for CUDA's, which torch chooses exactly itself, and pip's own tool."""
    free = {name for name in needed_by(EVERYTHING) if name.startswith(("nvidia-", "cuda-"))} | {"triton", "setuptools"}
    assert needed_by(EVERYTHING) - free == set(read_pins())


def test_the_rules_environment_is_what_the_package_needs_to_run():
    wanted = needed_by(RUNNING)
    assert pip_part(read_environment("lanit")) == [line for name, line in read_pins().items() if name in wanted]
    assert not wanted & {"pytest", "ruff", "mypy", "snakefmt", "import-linter"}


def test_the_environment_for_development_is_all_of_it():
    assert pip_part(read_environment("dev")) == list(read_pins().values())


@pytest.mark.parametrize("name", ["Makefile", "README.md"])
def test_make_and_the_plain_commands_install_every_extra(name):
    assert f"-c constraints.txt -e '.[{','.join(EXTRAS)}]'" in (ROOT / name).read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_what_there_is_to_make():
    told = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[:2] for line in told.splitlines()] == [
        ["make", target] for target in phony.split() if target != "help"
    ]


def test_no_code_imports_what_is_not_needed_to_run():
    """A package that only tests have would be missed under conda alone."""
    owners = metadata.packages_distributions()
    imported: dict[str, Path] = {}
    for path in (*ROOT.glob("lanit/**/*.py"), *ROOT.glob("workflow/scripts/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0]: path for name in names}
    foreign = {name: path for name, path in imported.items() if name not in {*sys.stdlib_module_names, "lanit"}}
    local = {path.stem for path in ROOT.glob("workflow/scripts/*.py")}
    wanted = needed_by(RUNNING)
    lacking = {
        name: str(path)
        for name, path in foreign.items()
        if name not in local and not wanted & {normal(owner) for owner in owners.get(name, [])}
    }
    assert "torch" in foreign and lacking == {}


@pytest.mark.parametrize("name", ["lanit", "dev"])
def test_conda_looks_at_one_channel_that_exists(name):
    """Not at `nodefaults`, a word that conda since 26.7 takes for the name of a channel and does not find."""
    environment = read_environment(name)
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"][:2] == ["python =3.12", "pip"]
