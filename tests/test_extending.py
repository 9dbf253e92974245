"""A source, a method and a metric as docs/extending.md has them, each followed through the real commands."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lanit import catalogue
from lanit.cli import main
from lanit.data import sources
from lanit.data.manifest import read_card, read_truth
from lanit.evaluation import scores
from lanit.methods.protocol import Method

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
CLASSES = ["red", "green", "blue"]


def blocks():
    """The page's code: place → text, a place being a file's path or what is said of a list in one."""
    found = re.findall(r"```python\n# (\S+?\.py)(.*?)\n(.*?)```", PAGE, re.DOTALL)
    return {path + where: code for path, where, code in found}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The modules of the page, as if they lay in the packages, and an entry each; nothing else is changed."""
    folder, code = tmp_path_factory.mktemp("extended"), blocks()
    with pytest.MonkeyPatch.context() as patch:
        for path in [path for path in code if path.endswith(".py")]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(code[path])
            name = Path(path).parent.as_posix().replace("/", ".")
            package = importlib.import_module(name)
            patch.setattr(package, "__path__", [*package.__path__, str(folder / Path(path).parent)])
            patch.setitem(sys.modules, f"{name}.{Path(path).stem}", None)  # forgotten at the end
            del sys.modules[f"{name}.{Path(path).stem}"]
        colours = importlib.import_module("lanit.data.colours")
        shift = importlib.import_module("lanit.evaluation.mean_shift")
        entry = eval(code["lanit/catalogue.py, in METHODS"], {"Entry": catalogue.Entry})
        patch.setitem(catalogue.METHODS, entry.name, entry)
        for registry, place, names in (
            (sources.SOURCES, "lanit/data/sources.py, in SOURCES", vars(colours)),
            (scores.METRICS, "lanit/evaluation/scores.py, in METRICS", vars(shift)),
        ):
            for key, value in eval(code[place], dict(names)).items():
                patch.setitem(registry, key, value)
        yield folder


def lanit(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def manifest(extended, tmp_path_factory):
    """A dataset of the page's source, sharded."""
    folder = tmp_path_factory.mktemp("colours")
    shards = {"train": 1, "test": 1, "pretrain": 1}
    options = json.dumps({"source": {"kind": "colours", "images": 24}, "size": 16, "shards": shards})
    lanit("shard", "plan", "--options", options, "--output", folder / "plan.parquet")
    for split in shards:
        given = ["--plan", folder / "plan.parquet", "--options", options, "--split", split, "--shard", 0]
        made = ["--output", folder / "shards" / f"{split}-0.tar", "--index", folder / f"{split}.parquet"]
        lanit("shard", "write", *given, *made)
    made = ["--manifest", folder / "manifest.parquet", "--quarantine", folder / "q.csv"]
    indices = [folder / f"{split}.parquet" for split in shards]
    given = ["--plan", folder / "plan.parquet", "--indices", *indices]
    lanit("shard", "index", *given, *made, "--card", folder / "dataset.json")
    return folder / "manifest.parquet"


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    """A run of the page's method after two steps, translated and scored."""
    folder = tmp_path_factory.mktemp("run")
    options = {"dataset": "colours", "method": "identity", "domains": CLASSES, "seed": 0, "size": 16, "images": 16}
    options |= {"batch": 8, "settings": {"learning_rate": 0.05}, "samples": 1, "log_every": 1, "device": "cpu"}
    lanit("train", "--options", json.dumps(options), "--manifest", manifest, "--output", folder)
    judge = json.dumps({"width": 4, "epochs": 1, "batch": 8, "held_out": 0.5})
    lanit("evaluate", "judge", "--options", judge, "--manifest", manifest, "--output", folder / "judge.safetensors")
    features = {"kind": "judge", "weights": str(folder / "judge.safetensors")}
    given = ["--features", json.dumps(features), "--manifest", manifest]
    lanit("evaluate", "features", *given, "--output", folder / "real.safetensors")
    wanted = {"classes": CLASSES, "features": features, "protocol": {"pairs": 3, "k": 2}}
    made = ["--output", folder / "translations.safetensors", "--pictures", folder / "pictures.npz"]
    lanit("translate", "--run", folder, "--manifest", manifest, "--options", json.dumps(wanted), *made)
    given = ["--translations", folder / "translations.safetensors", "--real", folder / "real.safetensors"]
    lanit("evaluate", "scores", *given, "--manifest", manifest, "--run", folder, "--output", folder / "scores.json")
    return folder


def test_a_source_is_sharded(manifest):
    card = read_card(manifest.parent / "dataset.json")
    assert card.classes == ("red", "green", "blue") and card.exclusive and card.splits["test"].images == 24
    assert card.resize == "drawn at 16x16 pixels"
    assert read_truth(manifest, "train")[CLASSES].to_numpy().sum(0).tolist() == [8, 8, 8]


def test_a_method_is_trained_translated_and_scored(run, manifest, tmp_path):
    method = catalogue.load(catalogue.METHODS["identity"].module)(catalogue.read_settings("identity", {}), 16, CLASSES)
    assert isinstance(method, Method)
    record = json.loads((run / "run.json").read_text())
    assert record["method"] == "identity" and record["images_seen"] == 16
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(told) == 2 and told[0]["rec"] > 0 and told[0]["norm_generator"] > 0
    found = json.loads((run / "scores.json").read_text())
    assert found["method"] == "identity" and found["mean"]["mfid"] > 0 and found["mean"]["hit_rate"] is not None
    assert (run / "samples" / "00000016.png").is_file()
    assert list(np.load(run / "pictures.npz")["domains"]) == ["cluster 1", "cluster 2", "cluster 3"]
    lanit("compare", "--options", json.dumps({"sweep": "s"}), "--scores", run / "scores.json",
          "--quality", "--pictures", run / "pictures.npz", "--output", tmp_path)  # fmt: skip
    assert "Identity" in (tmp_path / "tables" / "comparison.md").read_text()


def test_a_metric_is_in_the_scores_of_each_class_and_in_their_mean(run, manifest):
    found, real = json.loads((run / "scores.json").read_text()), load_file(run / "real.safetensors")["features"]
    made = load_file(run / "translations.safetensors")
    truth, shifts = read_truth(manifest, "test"), []
    for target, name in enumerate(CLASSES):
        means = real[truth[name].to_numpy()].mean(0), made["features"][made["target"] == target].mean(0)
        shifts.append(float(((means[0].astype(float) - means[1]) ** 2).sum()))
        assert found["per_class"][name]["mean_shift"] == pytest.approx(shifts[-1], rel=1e-4)
    assert found["mean"]["mean_shift"] == pytest.approx(np.mean(shifts), rel=1e-4)


def test_each_takes_a_page_at_most():
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == ["A method", "A source", "A metric"]
    assert max(len(section.splitlines()) for section in sections) < 110
