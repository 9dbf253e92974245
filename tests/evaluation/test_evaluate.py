"""From translations to scores.json: methods whose scores are known beforehand get them."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import CLASSES, Clustering, Identity, Perfect
from sklearn import metrics

from lanit.cli import main
from lanit.config import LanitError
from lanit.data.manifest import read_truth
from lanit.evaluation.fid import fid
from lanit.evaluation.scores import Real, Translations, score
from lanit.files import read_tensors


@pytest.fixture
def judged(real):
    arrays, about = read_tensors(real, ("features", "logits", "classes"), "lanit evaluate features")
    return arrays, about["classes"]


def test_the_judge_tells_held_out_quality_and_knows_what_faces_show(judge, judged, manifest):
    _, about = read_tensors(judge, ("accuracy", "options"), "lanit evaluate judge")
    assert set(about["accuracy"]) == set(about["classes"]) and about["options"]["held_out"] == 0.2
    assert about["exclusive"] is False and about["accuracy"]["blue background"] > 0.9
    arrays, classes = judged
    truth = read_truth(manifest, "test")
    column = classes.index("blue background")
    assert ((arrays["logits"][:, column] > 0) == truth["blue background"]).mean() > 0.9


def test_the_judge_learns_from_split_pretrain_alone(manifest, judge, tmp_path):
    import pandas

    # Neither another truth nor other places of the images that are scored change a byte of it.
    table = pandas.read_parquet(manifest)
    scored = table["split"] != "pretrain"
    for name in [name for name in table if name.startswith("truth:")]:
        table.loc[scored, name] = ~table.loc[scored, name]
    table.loc[scored, "offset"] += 512
    table.to_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "dataset.json").write_bytes((manifest.parent / "dataset.json").read_bytes())
    (tmp_path / "shards").symlink_to(manifest.parent / "shards")
    options = json.dumps({"width": 4, "epochs": 1, "held_out": 0.2})
    for path, output in [(manifest, "a"), (tmp_path / "manifest.parquet", "b")]:
        command = ["evaluate", "judge", "--options", options, "--manifest", str(path)]
        assert main([*command, "--output", str(tmp_path / output)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_judge_without_split_pretrain(manifest, tmp_path, capsys):
    import pandas

    table = pandas.read_parquet(manifest)
    table[table["split"] != "pretrain"].to_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "dataset.json").write_bytes((manifest.parent / "dataset.json").read_bytes())
    command = ["evaluate", "judge", "--manifest", str(tmp_path / "manifest.parquet")]
    assert main([*command, "--output", str(tmp_path / "judge")]) == 2
    assert "has no split 'pretrain'" in capsys.readouterr().err


def test_a_perfect_method_hits_as_often_as_the_judge_sees_the_class_in_its_references(
    make_run, translate, evaluate, judged
):
    run = make_run(Perfect())
    assert translate(run) == 0
    scores = evaluate(run)
    made, _ = read_tensors(run / "translations.safetensors", (), "lanit translate")
    arrays, classes = judged
    for t, name in enumerate(CLASSES):
        row, into = scores["per_class"][name], made["target"] == t
        seen = arrays["logits"][:, classes.index(name)] > 0
        assert row["hit_rate"] == pytest.approx(seen[made["reference"][into]].mean())
        assert row["source_rate"] == pytest.approx(seen[made["source"][into]].mean())
        assert row["density"] > 0.5
    assert scores["mean"]["hit_rate"] > 0.85 > 0.3 > scores["mean"]["source_rate_candidates"]


def test_a_method_that_does_nothing_hits_as_often_as_its_sources(make_run, translate, evaluate):
    run = make_run(Identity())
    assert translate(run) == 0
    idle = evaluate(run)
    assert idle["variant"] == idle["method"]  # no other name is in run.json
    for row in idle["per_class"].values():
        assert row["hit_rate"] == pytest.approx(row["source_rate"], abs=1e-6)
    run = make_run(Perfect())
    assert translate(run) == 0
    perfect = evaluate(run)
    assert perfect["mean"]["mfid"] < 0.5 * idle["mean"]["mfid"] and perfect["mean"]["mkid"] < idle["mean"]["mkid"]
    assert perfect["mean"]["kept_rate"] < 1 and idle["mean"]["kept_rate"] > 0.6


def test_found_clusters_are_compared_with_the_classes_of_images_that_show_one(make_run, translate, evaluate, manifest):
    run = make_run(Clustering())
    assert translate(run) == 0
    found = evaluate(run)["clusters"]
    truth = read_truth(manifest, "test")[CLASSES].to_numpy(bool)
    single = truth.sum(axis=1) == 1
    clusters = read_tensors(run / "translations.safetensors", (), "lanit translate")[0]["clusters"]
    classes = truth[single].argmax(axis=1)
    assert (found["images"], found["clusters"], found["used"]) == (single.sum(), 2, 2) and 10 < single.sum() < 110
    assert found["share"] == pytest.approx(single.mean())
    assert found["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(classes, clusters[single]))
    assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(classes, clusters[single]))
    assert (
        found["purity"] >= found["accuracy"] and found["purity"] > found["largest_class"]
    )  # one class is a background
    assert translate(make_run(Perfect())) == 0
    assert evaluate(run)["clusters"] is None


def test_scores_are_stored_with_all_that_they_depend_on(make_run, translate, evaluate, manifest, real):
    run = make_run(Perfect(), ["hat", "beard", "green skin"])
    record = json.loads((run / "run.json").read_text()) | {"variant": "perfect_calm"}
    (run / "run.json").write_text(json.dumps(record))
    assert translate(run) == 0
    scores = evaluate(run, json.dumps({"protocol": {"pairs": 12}}))
    assert all(scores[key] == record[key] for key in record if key != "domains") and scores["domains"] == 3
    assert scores["protocol"] | {"description": ""} == {
        "name": "reference", "pairs": 12, "k": 5, "seed": 0, "split": "test", "classes": CLASSES, "description": "",
    }  # fmt: skip
    assert scores["features"].startswith("judge-")
    truth, row = read_truth(manifest, "test"), scores["per_class"]["green skin"]
    assert row["n_real"] == truth["green skin"].sum() and row["n_fake"] == 24
    assert {name: row["candidate"] for name, row in scores["per_class"].items()} == {
        "hat": True, "blue background": False, "green skin": True,
    }  # fmt: skip
    fakes, _ = read_tensors(run / "translations.safetensors", (), "lanit translate")
    reals, _ = read_tensors(real, (), "lanit evaluate features")
    expected = fid(reals["features"][truth["green skin"]], fakes["features"][fakes["target"] == 2])
    assert row["fid"] == pytest.approx(expected)
    mean = scores["mean"]
    assert mean["mfid"] == pytest.approx(np.mean([row["fid"] for row in scores["per_class"].values()]))
    candidates = [scores["per_class"][name]["hit_rate"] for name in ("hat", "green skin")]
    assert mean["hit_rate_candidates"] == pytest.approx(np.mean(candidates))
    assert row["references_without_label"] is None and mean["references_without_label"] is None


def test_under_a_protocol_of_split_val_everything_is_of_it(
    make_run, translate, evaluate, manifest, judge, real, tmp_path, capsys
):
    run = make_run(Perfect())
    assert translate(run, protocol={"pairs": 12, "split": "val"}) == 0
    features = json.dumps({"kind": "judge", "weights": str(judge)})
    command = ["evaluate", "features", "--features", features, "--manifest", str(manifest), "--split", "val"]
    assert main([*command, "--output", str(tmp_path / "val.safetensors")]) == 0
    scores = evaluate(run, real=tmp_path / "val.safetensors")
    assert scores["protocol"]["split"] == "val" and "split val" in scores["protocol"]["description"]
    truth = read_truth(manifest, "val")
    assert scores["per_class"]["hat"]["n_real"] == truth["hat"].sum() != read_truth(manifest, "test")["hat"].sum()
    made, _ = read_tensors(run / "translations.safetensors", (), "lanit translate")
    assert truth["hat"].to_numpy()[made["reference"][made["target"] == 0]].all()
    seen, _ = read_tensors(tmp_path / "val.safetensors", (), "lanit evaluate features")
    np.testing.assert_allclose(made["features"], seen["features"][made["reference"]], atol=1e-5)  # it is perfect

    assert evaluate(run, real=real) == 2
    assert "does not hold the manifest's 100 val images" in capsys.readouterr().err
    assert evaluate(run, json.dumps({"protocol": {"pairs": 12}}), real=tmp_path / "val.safetensors") == 2
    assert "was made under" in capsys.readouterr().err


def toy(**changes):
    """Six translations, into two classes of three, among 16 real images."""
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 3), bool)
    truth[:8, 0], truth[8:, 1], truth[::2, 2] = True, True, True
    values = {
        "features": rng.normal(size=(6, 4)),
        "source": np.array([8, 9, 10, 0, 1, 2]),
        "reference": np.array([0, 1, 2, 8, 9, 10]),
        "target": np.array([0, 0, 0, 1, 1, 1]),
        "classes": ["a", "b"],
        "logits": np.array([[1, -1, 1], [1, 1, -1], [-1, 1, -1], [1, 1, 1], [-1, 1, 1], [-1, 1, 1]]),
        "unlabelled": np.array([True, False, False, False, False, False]),
    }
    real = Real(rng.normal(size=(16, 4)), truth, ["a", "b", "c"], np.where(truth, 1, -1), ["a", "b", "c"], False)
    return Translations(**values | changes), real


def test_rates_count_what_the_judge_sees():
    per_class, mean = score(*toy(), domains=["b"], k=5)
    a, b = per_class["a"], per_class["b"]
    assert (a["hit_rate"], b["hit_rate"]) == (pytest.approx(2 / 3), 1.0)
    assert (a["source_rate"], b["source_rate"]) == (0, 0)
    # Source and reference of one row agree in c alone: true, false, true for sources 8, 9, 10 and for 0, 1, 2.
    assert a["kept_rate"] == pytest.approx(2 / 3) and b["kept_rate"] == pytest.approx(2 / 3)
    assert (a["candidate"], b["candidate"]) == (False, True)
    assert (mean["hit_rate"], mean["hit_rate_candidates"]) == (pytest.approx(5 / 6), 1.0)
    assert a["references_without_label"] == pytest.approx(1 / 3)
    assert mean["references_without_label"] == pytest.approx(1 / 6)


def test_exclusive_classes_are_decided_by_the_largest_logit():
    logits = np.array([[1, 2, 0], [3, 2, 1], [-1, -2, -3], [0, 5, 1], [1, 0, 0], [0, 1, 0.5]])
    translations, real = toy(logits=logits)
    real = Real(real.features, real.truth, real.known, real.logits, real.judged, exclusive=True)
    per_class, mean = score(translations, real, domains=[], k=5)
    assert (per_class["a"]["hit_rate"], per_class["b"]["hit_rate"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert per_class["a"]["kept_rate"] is None and mean["kept_rate"] is None
    assert mean["hit_rate_candidates"] is None and mean["source_rate_candidates"] is None


def test_without_a_judge_what_only_it_can_tell_is_null():
    translations, real = toy(logits=None)
    per_class, mean = score(translations, real, domains=["a"], k=5)
    assert per_class["a"]["fid"] > 0 and mean["mfid"] > 0
    for name in ("hit_rate", "source_rate", "kept_rate"):
        assert per_class["a"][name] is None
    assert mean["hit_rate"] is None and mean["hit_rate_candidates"] is None


def test_a_class_with_too_few_real_images_is_an_error():
    with pytest.raises(LanitError, match="'a' cannot be scored: there are 8 real images where the metric needs 10"):
        score(*toy(), domains=[], k=9)


def test_scores_of_different_origins_are_not_mixed(make_run, translate, evaluate, manifest, real, capsys, tmp_path):
    run = make_run(Perfect())
    assert translate(run) == 0
    assert evaluate(run, json.dumps({"protocol": {"pairs": 13}})) == 2
    assert "was made under" in capsys.readouterr().err
    make_run(Perfect(), config="of another run")
    assert evaluate(run) == 2
    assert "is not of the training" in capsys.readouterr().err
    make_run(Perfect())

    from lanit.files import write_tensors

    arrays, about = read_tensors(real, (), "")
    write_tensors(tmp_path / "other.safetensors", arrays, about | {"features": "judge-00000000"})
    assert evaluate(run, real=tmp_path / "other.safetensors") == 2
    assert "extract both with the same weights" in capsys.readouterr().err
    write_tensors(tmp_path / "other.safetensors", {name: array[1:] for name, array in arrays.items()}, about)
    assert evaluate(run, real=tmp_path / "other.safetensors") == 2
    assert "does not hold the manifest's 120 test images" in capsys.readouterr().err
    assert not (run / "scores.json").exists()


def test_scores_go_to_the_tracking_store_where_it_is_asked(make_run, translate, manifest, real, monkeypatch, tmp_path):
    run, logged = make_run(Perfect()), []
    assert translate(run) == 0
    store = SimpleNamespace(log_scores=lambda *arguments: logged.append(arguments))
    monkeypatch.setitem(sys.modules, "lanit.tracking", store)
    assert main([
        "evaluate", "scores", "--translations", str(run / "translations.safetensors"), "--real", str(real),
        "--manifest", str(manifest), "--run", str(run), "--output", str(run / "scores.json"),
        "--track", str(tmp_path / "s"),
    ]) == 0  # fmt: skip
    assert logged == [(str(tmp_path / "s"), run, json.loads((run / "scores.json").read_text()), [])]


def test_scoring_loads_no_torch():
    code = (
        "import sys, lanit.evaluation.evaluate, lanit.evaluation.scores, lanit.files;"
        "import lanit.evaluation.translate, lanit.data.manifest; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
