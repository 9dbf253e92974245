"""The configuration: a mistake is named by its key before any job starts, and every shipped configuration is sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "workflow" / "configs"

MISTAKES = [
    # an overlay, and the sentence
    ({"domain": [4]}, r"domain is not a key here; did you mean 'domains'\?"),
    ({"methods": ["stargan"]}, r"methods\.0 is wrong: 'stargan' is not one of .*"),
    ({"domains": []}, r"domains is wrong: .*"),
    ({"seeds": [-1]}, r"seeds\.0 is wrong: -1 is less than the minimum of 0"),
    ({"datasets": ["face"]}, r"datasets\[0\] names 'face', which is not there; did you mean 'faces'\?"),
    ({"labeller": "adaptiv"}, r"labeller names 'adaptiv', which is not there; did you mean 'adaptive'\?"),
    ({"labellers": {"top5": {"kind": "top_k"}}}, r"labellers\.top5 is wrong: 'k' is a required property"),
    ({"domains": [4, 17]}, r"dataset\.faces\.domains holds 16 names, not the N = 17 of .*"),
    ({"dataset": {"faces": {"clip": "clip"}}}, r"dataset\.faces\.clip names 'clip', which is not there; known are faces"),
    ({"dataset": {"faces": {"features": "inception"}}}, r"dataset\.faces\.features names 'inception', which is not there; known are faces"),
    ({"dataset": {"faces": {"sise": 32}}}, r"dataset\.faces\.sise is not a key here; did you mean 'size'\?"),
    ({"dataset": {"faces": {"templates": ["a face"]}}}, r"dataset\.faces\.templates\.0 is wrong: 'a face' does not match .*"),
    ({"dataset": {"faces": {"size": "32"}}}, r"dataset\.faces\.size is wrong: '32' is not of type 'integer'"),
    ({"clip": {"faces": {"pretrained": "openai"}}}, r"clip\.faces must hold either `pretrained` .* or `train`"),
    ({"clip": {"faces": {"model": "clip.json"}}}, r"clip\.faces\.model names clip\.json, where no file is; put it there or give its place"),
    ({"train": {"lanit": {"batch": 0}}}, r"train\.lanit\.batch is wrong: 0 is less than the minimum of 1"),
    ({"tracking": {"uri": "file:///tmp/x"}}, r"tracking\.uri is wrong: .*"),
]


def check(overlay: dict | Path) -> dict:
    """Do what the Snakefile does with `config.yaml` and an overlay, in this process: rule file and all."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, overlay if isinstance(overlay, dict) else yaml.safe_load(overlay.read_text()))
    path = ROOT / "workflow" / "rules" / "configuration.smk"
    names = {"config": config, "BASE": ROOT, "Path": Path, "WorkflowError": WorkflowError}
    exec(compile(path.read_text(), path, "exec"), names)
    return config


@pytest.mark.parametrize("overlay, sentence", MISTAKES, ids=[str(overlay) for overlay, _ in MISTAKES])
def test_a_mistake_is_named_by_its_key(monkeypatch, overlay, sentence):
    monkeypatch.chdir(ROOT)
    with pytest.raises(WorkflowError) as error:
        check(overlay)
    assert re.fullmatch("configuration: " + sentence, str(error.value))


def test_a_mistake_ends_snakemake_with_one_sentence(snakemake):
    result = snakemake("--dry-run", "--quiet", overlays=[{"datasets": ["face"]}])
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert "configuration: datasets[0] names 'face', which is not there; did you mean 'faces'?" in result.stdout


def test_defaults_are_filled_in(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = check({})
    assert config["tracking"]["uri"] is None and config["dataset"]["faces"]["missing"] is None


def test_overlays_do_not_drag_the_demo_along(snakemake, tmp_path):
    """The photos' sweep is of photos alone although it lies over the demo's configuration."""
    for folder in ("train", "test", "pretrain"):
        (tmp_path / "data" / "photos" / folder).mkdir(parents=True)
    for name in ("clip-photos.json", "clip-photos.safetensors"):
        (tmp_path / "data" / "photos" / name).touch()
    result = snakemake("--dry-run", "--quiet", "rules", overlays=[CONFIGS / "photos.yaml"])
    assert result.returncode == 0, result.stdout
    jobs = count_jobs(result.stdout)
    assert (jobs["plan_shards"], jobs["train"], jobs["train_judge"]) == (1, 6, 1) and "train_clip" not in jobs


def test_missing_images_end_in_one_sentence_that_says_what_goes_where(snakemake):
    result = snakemake("--dry-run", overlays=[CONFIGS / "paper.yaml"])
    assert result.returncode != 0
    message = next(line for line in result.stdout.splitlines() if line.startswith("configuration:"))
    assert "put the 30,000 images of CelebA-HQ" in message and "data/celeba_hq/images" in message


def test_the_papers_graph_builds_on_empty_folders(snakemake, tmp_path):
    """3 datasets x 2 methods x 5 N, with public weights by name: nothing is needed to plan it but the folders."""
    for folder in ("celeba_hq/images", "animal_faces", "food"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "celeba_hq" / "attributes.txt").touch()
    result = snakemake("--dry-run", "--quiet", "rules", overlays=[CONFIGS / "paper.yaml"])
    assert result.returncode == 0, result.stdout
    jobs = count_jobs(result.stdout)
    assert jobs["plan_shards"] == 3
    assert {jobs[rule] for rule in ("train", "translate", "score")} == {30}
    assert jobs["label"] == 60
    assert "train_clip" not in jobs and "train_judge" not in jobs


def test_the_readmes_example_of_own_images_builds_its_graph(snakemake, tmp_path):
    example = re.search(r"```yaml\n(# mine.yaml.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(example)
    (tmp_path / "photos").mkdir()
    result = snakemake("--dry-run", "--quiet", "rules", overlays=[CONFIGS / "paper.yaml", tmp_path / "mine.yaml"])
    assert result.returncode == 0, result.stdout
    jobs = count_jobs(result.stdout)
    assert (jobs["plan_shards"], jobs["write_shard"], jobs["train"], jobs["score"]) == (1, 9, 2, 2)


def test_the_papers_domains_are_lists_of_their_length():
    config = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    for dataset in config["dataset"].values():
        assert {n: len(names) for n, names in dataset["domains"].items()} == {n: n for n in (4, 7, 10, 13, 16)}
        assert dataset["classes"] == dataset["domains"][10]
        assert dataset["domains"][13][:10] == dataset["domains"][10]
        assert dataset["domains"][16][:13] == dataset["domains"][13]
        assert len(dataset["templates"]) == 9


def test_no_setting_of_the_demo_reaches_the_papers_sweep():
    """It is laid over the demo's: every setting that the demo changes is changed back to the paper's, the default."""
    from lanit.config import parse
    from lanit.methods.lanit import LanitOptions
    from lanit.methods.tunit import TunitOptions
    from lanit.training.options import AugmentOptions

    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load((CONFIGS / "paper.yaml").read_text()))
    for method, options in (("lanit", LanitOptions), ("tunit", TunitOptions)):
        training = config["train"][method]
        assert parse(options, training["settings"], method) == options()
        assert parse(AugmentOptions, training["augment"], method) == AugmentOptions()
        assert set(training) == {"batch", "augment", "settings"}


def test_conda_and_pip_install_the_same_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pip = [line for line in lines if line and not line.startswith("#")]
    environment = yaml.safe_load((ROOT / "envs" / "lanit.yaml").read_text())
    conda = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert conda == pip
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pip)


def test_every_dependency_of_the_package_has_a_version():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    wanted = {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in wanted}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert wanted <= pinned


def test_the_workflow_lints_clean(snakemake):
    result = snakemake("--lint")
    assert result.returncode == 0 and "good condition" in result.stdout, result.stdout


def count_jobs(text: str) -> dict[str, int]:
    """Rule → number of jobs, from the summary of a dry run."""
    return {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)}
