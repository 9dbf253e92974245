"""The configuration: a mistake is named by its key before any job starts, and every shipped configuration is sound."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import configuration
import pytest
import yaml
from snakemake.utils import update_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "workflow" / "configs"

MISTAKES = [
    # an overlay, and the sentence
    (
        {"train": {"lanit": {"settings": {"loss": {"dll": 1}}}}},
        r"train\.lanit\.settings\.loss has an unknown key 'dll'; did you mean 'dl'\?",
    ),
    (
        {"train": {"lanit": {"settings": {"ema": float("nan")}}}},
        r"train\.lanit\.settings\.ema must be a finite number, not nan",
    ),
    (
        {"train": {"lanit": {"settings": {"learning_rate": -0.1}}}},
        r"train\.lanit\.settings\.learning_rate must be above 0, not -0\.1",
    ),
    (
        {"train": {"tunit": {"settings": {"network": {"guiding_base": 0}}}}},
        r"train\.tunit\.settings\.network\.guiding_base must be at least 1, not 0",
    ),
    (
        {"methods": ["mild"], "train": {"mild": {"like": "lanit", "settings": {"betas": [0.5, 1.5]}}}},
        r"train\.mild\.settings\.betas\[1\] must be at least 0 and below 1, not 1\.5",
    ),
    (
        {"methods": ["stargan2"], "dataset": {"faces": {"size": 48}}},
        r"train\.stargan2\.settings does not suit faces at N = 4: size 48 cannot be halved down to 16 .*",
    ),
    ({"train": {"lanit": {"settings": {"loss": {"dl": 0}}}}}, r"prompts learn from the language loss alone, .*"),
    ({"evaluate": {"split": "pretrain"}}, r"evaluate\.split is wrong: 'pretrain' is not one of .*"),
    ({"domain": [4]}, r"domain is not a key here; did you mean 'domains'\?"),
    ({"methods": ["lanit_top1"]}, r"methods\[0\] names 'lanit_top1', which is not there; did you mean 'lanit'\?"),
    ({"methods": ["images"]}, r"methods\[0\] names 'images', which is not there; known are lanit, .*, tunit"),
    ({"domains": []}, r"domains is wrong: .*"),
    ({"seeds": [-1]}, r"seeds\.0 is wrong: -1 is less than the minimum of 0"),
    ({"datasets": ["face"]}, r"datasets\[0\] names 'face', which is not there; did you mean 'faces'\?"),
    ({"labeller": "adaptiv"}, r"labeller names 'adaptiv', which is not there; did you mean 'adaptive'\?"),
    ({"labellers": {"top5": {"kind": "top_k"}}}, r"labellers\.top5 is wrong: 'k' is a required property"),
    ({"domains": [4, 17]}, r"dataset\.faces\.domains holds 16 names, not the N = 17 of .*"),
    (
        {"dataset": {"faces": {"clip": "clip"}}},
        r"dataset\.faces\.clip names 'clip', which is not there; known are faces",
    ),
    (
        {"dataset": {"faces": {"features": "inception"}}},
        r"dataset\.faces\.features names 'inception', which is not there; known are faces",
    ),
    ({"dataset": {"faces": {"sise": 32}}}, r"dataset\.faces\.sise is not a key here; did you mean 'size'\?"),
    (
        {"dataset": {"faces": {"templates": ["a face"]}}},
        r"dataset\.faces\.templates\.0 is wrong: 'a face' does not match .*",
    ),
    ({"dataset": {"faces": {"size": "32px"}}}, r"dataset\.faces\.size is wrong: '32px' is not of type 'integer'"),
    ({"domains": 4}, r"domains is wrong: 4 is not of type 'array'"),
    ({"sweep": True}, r"sweep is true to YAML \(which reads yes, on and true so\); put quotes around the text"),
    (
        {"dataset": {"faces": {"classes": ["hat", False]}}},
        r"dataset\.faces\.classes\.1 is false to YAML \(which reads no, off and false so\); put quotes around the name",
    ),
    (
        {"domains": [2, 4]},
        r"labellers\.top3\.k is 3, more than the N = 2 of `domains`; .* with `labellers: \{top3: null\}`",
    ),
    ({"labellers": {"adaptive": None}}, r"labeller names 'adaptive', which is not there; .*"),
    ({"methods": ["tunit"], "train": {"tunit": None}}, r"methods\[0\] names 'tunit', which is not there; .*"),
    ({"results": "./"}, r"results is the working directory itself; name a folder in it"),
    ({"results": "what?"}, r"results: .* holds a question mark, .* name another folder"),
    ({"clip": {"faces": {"pretrained": "openai"}}}, r"clip\.faces must hold either `pretrained` .* or `train`"),
    (
        {"clip": {"faces": {"model": "clip.json"}}},
        r"clip\.faces\.model names clip\.json, where no file is; put it there or give its place",
    ),
    (
        {"clip": {"faces": {"mean": [0.5, 0.5, 0.5]}}},
        r"clip\.faces\.mean is of weights that are given; a CLIP that is trained here knows: drop it",
    ),
    (
        {"clip": {"mine": {"model": "ViT-B-32", "pretrained": "x.pt"}}, "dataset": {"faces": {"clip": "mine"}}},
        r"clip\.mine cannot be used: no CLIP checkpoint at x\.pt; put the weights of ViT-B-32 there or give their path",
    ),
    (
        {"clip": {"mine": {"model": "ViT-B-32"}}, "dataset": {"faces": {"clip": "mine"}}},
        r"clip\.mine must hold either `pretrained` \(a tag, a file or a folder\) or `train`",
    ),
    (
        {"clip": {"mine": {"model": "tests/"}}, "dataset": {"faces": {"clip": "mine"}}},
        r"clip\.mine cannot be used: tests holds no open_clip_config\.json; put it there, or give clip\.model .*",
    ),
    (
        {
            "clip": {"mine": {"model": "ViT-B-32", "pretrained": "openai", "std": [0, 0, 0]}},
            "dataset": {"faces": {"clip": "mine"}},
        },
        r"clip\.mine cannot be used: clip\.std must hold three values from 0\.001 to 1, .*",
    ),
    ({"clip": {"faces": {"mean": [127, 127, 127]}}}, r"clip\.faces\.mean\.0 is wrong: 127 is greater than .*"),
    (
        {"clip": {"faces": {"quickgelu": True}}},
        r"clip\.faces\.quickgelu is not a key here; did you mean 'quick_gelu'\?",
    ),
    ({"train": {"lanit": {"batch": 0}}}, r"train\.lanit\.batch is wrong: 0 is less than the minimum of 1"),
    ({"train": {"lanit-top1": {"like": "lanit"}}}, r"train is wrong: 'lanit-top1' does not match .*"),
    (
        {"train": {"mine": {"batch": 8}}},
        r"train\.mine is not a method \(stargan2, .*, lanit\): name with `like` the key of `train` that it is like",
    ),
    (
        {"train": {"mine": {"like": "lanti"}}},
        r"train\.mine\.like names 'lanti', which is not there; did you mean 'lanit'\?",
    ),
    ({"train": {"mine": {"like": "images"}}}, r"train\.mine\.like names 'images', which is not there; known are .*"),
    (
        {"train": {"mine": {"like": "yours"}, "yours": {"like": "mine"}}},
        r"train\.yours\.like goes round in a circle \(mine -> yours -> mine\); end it at a method",
    ),
    (
        {"train": {"mine": {"like": "mine"}}},
        r"train\.mine\.like goes round in a circle \(mine -> mine\); end it at a method",
    ),
    (
        {"train": {"tunit": {"like": "lanit"}}},
        r"train\.tunit\.like is of no use: tunit is a method itself; drop it, .*",
    ),
    (
        {"train": {"mine": {"like": "lanit", "labeler": "top1"}}},
        r"train\.mine\.labeler is not a key here; did you mean 'labeller'\?",
    ),
    (
        {"train": {"mine": {"like": "lanit", "labeller": "top2"}}},
        r"train\.mine\.labeller names 'top2', which is not there; did you mean 'top3'\?",
    ),
    (
        {"train": {"mine": {"like": "lanit", "prompts": "thawed"}}},
        r"train\.mine\.prompts is wrong: 'thawed' is not one of \['frozen', 'learned'\]",
    ),
    (
        {"train": {"mine": {"like": "tunit", "prompts": "learned"}}},
        r"train\.mine\.prompts is of no use to tunit, which trains without labels; drop it",
    ),
    ({"uncovered": "drop"}, r"uncovered is wrong: 'drop' is not one of \['left_out', 'slack'\]"),
    ({"tracking": {"uri": "file:///tmp/x"}}, r"tracking\.uri must be null, sqlite:///… or http\(s\)://…"),
    ({"tracking": {"uri": "ftp://me:secret@host"}}, r"tracking\.uri must be null, sqlite:///… or http\(s\)://…"),
    ({"tracking": "http://me:secret@host"}, r"tracking\.uri must be null, sqlite:///… or http\(s\)://…"),
    ({"tracking": {"url": "http://me:secret@host"}}, r"tracking\.url is not a key here; did you mean 'uri'\?"),
    (
        {"external": {"clip": {"title": "StyleCLIP", "dataset": "faces", "images": "made"}}},
        r"external\.clip\.images names made, where no folder is; put the translations there or give their place "
        r"\(`snakemake results/faces/pairs` writes what there is to translate\)",
    ),
    (
        {"external": {"clip": {"title": "StyleCLIP", "dataset": "faces", "images": "docs", "table": "made.csv"}}},
        r"external\.clip\.table names made\.csv, where no file is; put it there or give its place",
    ),
    (
        {"external": {"clip": {"title": "StyleCLIP", "dataset": "face", "images": "docs"}}},
        r"external\.clip\.dataset names 'face', which is not there; did you mean 'faces'\?",
    ),
    (
        {"external": {"tunit": {"title": "StyleCLIP", "dataset": "faces", "images": "docs"}}},
        r"external\.tunit has the name of what is trained here; choose another",
    ),
    (
        {"external": {name: {"title": "StyleCLIP", "dataset": "faces", "images": "docs"} for name in "ab"}},
        r"external\.a\.title is 'StyleCLIP', which is another's too; tables would not tell them apart",
    ),
    (
        {"external": {"clip": {"title": "StyleCLIP", "dataset": "faces"}}},
        r"external\.clip is wrong: 'images' is a required property",
    ),
]


def check(overlay: dict | Path) -> dict:
    """The configuration as the Snakefile makes it of `config.yaml` and an overlay, checked."""
    return load(overlay)[0]


def variants(overlay: dict | Path) -> dict[str, dict]:
    """What each variant of `train` is in the end."""
    return load(overlay)[1]


def load(overlay: dict | Path) -> tuple[dict, dict[str, dict]]:
    """The configuration and its variants."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, overlay if isinstance(overlay, dict) else yaml.safe_load(overlay.read_text()))
    return config, configuration.check(config, ROOT)


@pytest.mark.parametrize("overlay, sentence", MISTAKES, ids=[str(overlay) for overlay, _ in MISTAKES])
def test_a_mistake_is_named_by_its_key(monkeypatch, overlay, sentence):
    monkeypatch.chdir(ROOT)
    with pytest.raises(configuration.Mistake) as error:
        check(overlay)
    assert re.fullmatch("configuration: " + sentence, str(error.value))


def test_a_labeller_is_switched_off_in_an_overlay(snakemake):
    """Two domains, the commonest task of all: day and night, horse and zebra."""
    overlay = {"domains": [2], "labellers": {"top3": None}}
    commands = planned(snakemake, "lanit label", overlays=[overlay])
    assert {c["options"]["labeller"]["kind"] for c in commands} == {"adaptive", "top_k", "fixed"}
    assert {c["options"]["labeller"].get("k") for c in commands} == {None, 1}


def test_a_learning_rate_may_be_written_as_people_write_it(snakemake, tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {images: 1e4, lanit: {settings: {learning_rate: 1e-4}}}\n")
    commands = planned(snakemake, "lanit train", overlays=[tmp_path / "mine.yaml"])
    lanit = {c["options"]["method"]: c["options"] for c in commands}["lanit"]
    assert (lanit["settings"]["learning_rate"], lanit["images"]) == (0.0001, 10000)


def test_what_is_nested_on_the_command_line_is_what_it_would_be_in_a_file(snakemake):
    told = ["--config", "domains=[4,7]", "seeds=[0,1]", 'train={"images": 800, "tunit": {"batch": 4}}']
    told += ['labellers={"top3": null}']
    result = snakemake("--dry-run", "--quiet", "progress", "--printshellcmds", *told)
    assert result.returncode == 0, result.stdout
    options = {json.dumps(c["options"]): c["options"] for c in calls_in(result.stdout, "lanit train")}.values()
    assert len(options) == 8 and {(o["method"], o["batch"], o["images"]) for o in options} == {
        ("lanit", 8, 800), ("tunit", 4, 800),
    }  # fmt: skip


def test_from_elsewhere_the_shipped_files_are_found_and_results_are_here(tmp_path):
    """The checkout is shared and read-only, and nothing of it lies in the working folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--cores", "1"]
    command += ["--printshellcmds", "--configfile", str(CONFIGS / "smoke.yaml")]
    for arguments in ([], ["--directory", str(tmp_path / "there")]):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (clip,) = {
            json.dumps(c["options"]): c for c in calls_in(done.stdout + done.stderr, "lanit embed clip")
        }.values()
        assert clip["options"]["model"] == str(CONFIGS / "clip-faces.json")
        assert clip["output"] == ["results-smoke/clip/faces/clip.safetensors"]


def test_no_spelling_of_a_folder_is_warned_of(snakemake, tmp_path):
    for spelling in ("./out/", f"{tmp_path}/out"):
        result = snakemake("--dry-run", "--quiet", "progress", "--printshellcmds", overlays=[{"results": spelling}])
        assert result.returncode == 0 and "Relative file path" not in result.stdout, result.stdout
        assert {c["output"][0] for c in calls_in(result.stdout, "lanit compare")} == {"out"}


def test_no_password_is_passed_on(snakemake):
    """MLflow finds it in the environment; commands, params and the record of what was run do not hold it."""
    uri = "http://runner:hunter%232@127.0.0.1:9/base"
    result = snakemake("--dry-run", "--printshellcmds", "--verbose", overlays=[{"tracking": {"uri": uri}}])
    assert result.returncode == 0 and "http://127.0.0.1:9/base" in result.stdout
    assert "hunter" not in result.stdout and "runner" not in result.stdout
    checked = check({"tracking": {"uri": uri}})
    try:
        assert checked["tracking"]["uri"] == "http://127.0.0.1:9/base"
        assert os.environ.pop("MLFLOW_TRACKING_PASSWORD") == "hunter#2"
    finally:
        os.environ.pop("MLFLOW_TRACKING_USERNAME", None)


def test_more_domains_than_there_are_names_are_refused(snakemake):
    result = snakemake("--dry-run", "results/faces/lanit-n20/seed0/scores.json")
    assert result.returncode != 0
    assert "dataset.faces.domains has no 20 names, and a file of N = 20 is asked for" in result.stdout


def test_a_mistake_ends_snakemake_with_one_sentence(snakemake):
    result = snakemake("--dry-run", "--quiet", overlays=[{"datasets": ["face"]}])
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert "configuration: datasets[0] names 'face', which is not there; did you mean 'faces'?" in result.stdout


def test_defaults_are_filled_in(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = check({})
    assert config["tracking"]["uri"] is None and config["dataset"]["faces"]["missing"] is None


def test_a_variant_is_like_another_but_for_what_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = variants({"train": {
        "first": {"like": "lanit", "labeller": "top1", "settings": {"loss": {"dl": 0}, "betas": [0, 0.9]}},
        "second": {"like": "first", "images": 80, "settings": {"loss": {"ds": 0}}},
        "third": {"like": "tunit", "batch": 4},
    }})  # fmt: skip
    lanit, second = made["lanit"], made["second"]
    assert lanit["method"] == second["method"] == "lanit" and made["third"]["method"] == "tunit"
    assert second["settings"]["loss"] == lanit["settings"]["loss"] | {"dl": 0, "ds": 0}
    assert second["settings"]["network"] == lanit["settings"]["network"] and second["settings"]["betas"] == [0, 0.9]
    assert (lanit["labeller"], second["labeller"]) == ("adaptive", "top1")
    assert (lanit["images"], second["images"], made["third"]["batch"]) == (5600, 80, 4)
    assert made["third"]["settings"] == made["tunit"]["settings"] and "prompts" not in made["tunit"]


def test_the_sweeps_choices_are_those_of_every_variant_that_makes_none(monkeypatch):
    monkeypatch.chdir(ROOT)
    own = {"calm": {"like": "lanit", "prompts": "frozen"}, "calmer": {"like": "calm"}, "plain": {"like": "lanit"}}
    made = variants({"labeller": "top3", "prompts": "learned", "uncovered": "slack", "train": own})
    assert {name: made[name]["prompts"] for name in ("lanit", "plain", "calm", "calmer")} == {
        "lanit": "learned", "plain": "learned", "calm": "frozen", "calmer": "frozen",
    }  # fmt: skip
    assert {(made[name]["labeller"], made[name]["uncovered"]) for name in own} == {("top3", "slack")}


def test_a_training_is_given_its_variants_options(snakemake):
    """A method that trains on labels gets language; one whose prompts learn also gets what labels are made of."""
    overlay = {
        "methods": ["lanit", "bold", "tunit"],
        "prompts": "frozen",
        "domains": [4],
        "train": {"bold": {"like": "lanit", "labeller": "top3", "prompts": "learned", "uncovered": "slack",
                           "images": 80, "accumulate": 2, "precision": "bf16"}},
    }  # fmt: skip
    commands = {c["options"]["variant"]: c for c in planned(snakemake, "lanit train", overlays=[overlay])}
    lanit, bold, tunit = (commands[name]["options"] for name in overlay["methods"])
    common = {"dataset", "method", "variant", "domains", "seed", "size", "images", "batch", "augment", "settings"}
    assert set(tunit) == common and set(lanit) == common | {"language"}
    assert set(bold) == set(lanit) | {"accumulate", "precision"} and (bold["method"], bold["images"]) == ("lanit", 80)
    assert lanit["domains"] == ["hat", "glasses", "blue background", "beard"]
    assert lanit["language"] == {
        "clip": {"model": "workflow/configs/clip-faces.json", "pretrained": "results/clip/faces/clip.safetensors"},
        "templates": ["a face with {}."],
        "labeller": {"kind": "adaptive"},
        "prompts": "frozen",
        "uncovered": "left_out",
    }
    changed = {"labeller": {"kind": "top_k", "k": 3}, "prompts": "learned", "uncovered": "slack"}
    assert bold["language"] == lanit["language"] | changed
    assert commands["bold"]["embeddings"] == [f"results/faces/embeddings/faces/train-{i}.safetensors" for i in (0, 1)]
    assert "embeddings" not in commands["lanit"] and "labels" not in commands["tunit"]
    assert commands["lanit"]["labels"] == ["results/faces/labels/adaptive-n4"]
    assert commands["bold"]["labels"] == ["results/faces/labels/top3-n4"]


def test_how_a_clip_sees_is_part_of_every_command_that_loads_it_and_its_files_are_their_inputs(snakemake, tmp_path):
    """What is given alone: a key more would plan finished stages anew."""
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "README.md"):
        (hub / name).write_text("{}")
    told = {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "quick_gelu": False}
    given = {"clip": {"mine": {"model": "hub"} | told}, "dataset": {"faces": {"clip": "mine"}}}
    overlay = given | {"methods": ["lanit"], "domains": [4]}
    calls = planned(snakemake, "lanit embed", "lanit train", overlays=[overlay])
    clips = [call["options"].get("clip") or call["options"]["language"]["clip"] for call in calls]
    assert len(clips) >= 5 and all(clip == {"model": "hub"} | told for clip in clips)
    made = tmp_path / "results" / "faces" / "embeddings" / "mine" / "texts.safetensors"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"of before the files were changed")
    os.utime(made, (0, 10**9))
    changed = snakemake("--dry-run", str(made.relative_to(tmp_path)), overlays=[overlay]).stdout
    reason = re.search("Updated input files: (.*)", changed)[1]
    assert set(reason.split(", ")) == {
        "hub/open_clip_config.json", "hub/open_clip_model.safetensors", "hub/tokenizer.json"
    }  # fmt: skip


def test_another_system_stands_beside_the_methods_once_a_dataset(snakemake, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made.csv").touch()
    given = {"title": "StyleCLIP (a)", "dataset": "faces", "images": "made"}
    other = {"title": "Other", "dataset": "photos", "images": "nowhere"}  # of a dataset that this sweep leaves out
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    overlay = {
        "external": {"clip": given, "edit": given | {"title": "B", "table": "made.csv"}, "other": other},
        "dataset": {"photos": config["dataset"]["faces"]},
        "domains": [4, 7],
    }
    names = ["lanit evaluate", "lanit translate", "lanit compare", "lanit track"]
    calls = planned(snakemake, *names, overlays=[overlay])
    first, second = sorted((call for call in calls if "images" in call), key=lambda call: call["output"])
    assert (first["images"], first.get("table"), second["table"]) == (["made"], None, ["made.csv"])
    folder = "results/faces/external/clip"
    assert first["output"] == [folder] and first["manifest"] == ["results/faces/manifest.parquet"]
    translated = next(call["options"] for call in calls if call.get("run") == ["results/faces/lanit-n4/seed0"])
    assert first["options"] == {"name": "clip", "title": "StyleCLIP (a)", "dataset": "faces"} | translated
    scored = {call["run"][0]: call for call in calls if "real" in call}
    assert len(scored) == 4 + 2
    assert scored[folder]["translations"] == [f"{folder}/translations.safetensors"]
    assert scored[folder]["options"] == scored["results/faces/lanit-n4/seed0"]["options"]
    assert scored[folder]["output"] == [f"{folder}/scores.json"]
    (compare,) = [call for call in calls if "quality" in call]
    assert compare["scores"][4:] == [f"results/faces/external/{name}/scores.json" for name in ("clip", "edit")]
    assert compare["pictures"][4] == f"{folder}/pictures.npz" and len(compare["metrics"]) == 4
    (track,) = [call for call in calls if "comparison" in call]
    assert track["runs"][4:] == [folder, "results/faces/external/edit"]


def test_what_other_systems_are_to_translate_needs_no_training(snakemake):
    result = snakemake("results/faces/pairs", "--dry-run", "--quiet", "rules")
    jobs = count_jobs(result.stdout)
    assert jobs == {"plan_shards": 1, "write_shard": 6, "index_shards": 1, "export_pairs": 1, "total": 9}, result.stdout


def test_what_prompts_have_learned_labels_the_images_anew(snakemake):
    bold = {"like": "lanit", "prompts": "learned"}
    overlay = {"methods": ["lanit", "bold"], "prompts": "frozen", "domains": [4], "train": {"bold": bold}}
    commands = planned(snakemake, "lanit label", "lanit translate", "lanit compare", overlays=[overlay])
    run = "results/faces/bold-n4/seed0"
    (relabel,) = [c for c in commands if c["output"] == [f"{run}/labels"]]
    (label,) = [c for c in commands if c["output"] == ["results/faces/labels/adaptive-n4"]]
    assert relabel["texts"] == [f"{run}/texts.safetensors"]
    assert relabel["options"] == label["options"] and relabel["embeddings"] == label["embeddings"]
    used = {c["run"][0]: c["labels"] for c in commands if "run" in c}
    assert used == {run: [f"{run}/labels"], "results/faces/lanit-n4/seed0": ["results/faces/labels/adaptive-n4"]}
    (compare,) = [c for c in commands if "quality" in c]
    assert f"{run}/labels/quality.json" in compare["quality"] and compare["prompts"] == [f"{run}/prompts.json"]


def test_how_many_gpus_a_training_asks_for_is_said_by_the_profile_whatever_the_machine_shows(
    snakemake, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    said = {}
    cases = {
        "default": (),
        "gpu": ("--workflow-profile", ROOT / "profiles" / "gpu"),
        "two": ("--set-resources", "train:gpu=2"),
    }
    for name, arguments in cases.items():
        for shown in (True, False):
            with monkeypatch.context() as patch:
                if shown:
                    patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
                result = snakemake("--dry-run", "--quiet", "progress", "--printshellcmds", *map(str, arguments))
            said[name, shown] = re.findall(r'lease_gpus.py" (\d+)', result.stdout)
    wanted = {"default": "0", "gpu": "1", "two": "2"}  # of all ten, those whose prompts learn among them
    assert said == {(name, shown): 10 * [wanted[name]] for name in cases for shown in (True, False)}


def test_a_labeller_may_have_templates_of_its_own(snakemake):
    """They make its texts and are what a training's prompts start from; the images are embedded once."""
    names = ["lanit train", "lanit embed", "lanit label"]
    commands = planned(snakemake, *names, overlays=[CONFIGS / "prompts.yaml", {"seeds": [0]}])
    texts = {
        c["output"][0].rsplit("/", 1)[1]: c["options"]
        for c in commands
        if {"templates", "domains"} <= set(c["options"])
    }
    assert texts["texts.safetensors"]["templates"] == ["a face with {}."]
    assert texts["texts-poor.safetensors"]["templates"] == ["no {}."]
    labels = {c["output"][0].rsplit("/", 1)[1]: c for c in commands if "texts" in c and "run" not in c}
    assert labels["poor-n10"]["texts"] == ["results-prompts/faces/embeddings/faces/texts-poor.safetensors"]
    assert labels["poor-n10"]["options"] == labels["adaptive-n10"]["options"]
    trained = {c["options"]["variant"]: c["options"]["language"] for c in commands if "variant" in c["options"]}
    assert trained["lanit_learned_poor"] == trained["lanit_learned"] | {"templates": ["no {}."]}
    assert len([c for c in commands if "shard" in c]) == 4  # train 2, val 1, test 1


def test_the_ablation_trains_each_variant_with_each_seed(snakemake):
    names = yaml.safe_load((CONFIGS / "ablation.yaml").read_text())["methods"]
    commands = planned(snakemake, "lanit train", overlays=[CONFIGS / "ablation.yaml"])
    options = [command["options"] for command in commands]
    wanted = [(name, seed) for name in names for seed in range(3)]
    assert sorted((o["variant"], o["seed"]) for o in options) == sorted(wanted)
    first = {o["variant"]: o for o in options if o["seed"] == 0}
    same = ("method", "domains", "images", "batch", "augment")
    assert all(first[name][key] == first["lanit"][key] for name in names for key in same)
    changes = [(o["settings"], o["language"]) for o in first.values()]
    assert all(changes.count(change) == 1 for change in changes)  # each is another training


def test_a_sweep_is_scored_on_the_split_of_its_protocol(snakemake):
    """Features of real images and labels of references are of that split; what is trained stays the same."""
    names, calls = ["lanit train", "lanit translate", "lanit evaluate"], {}
    for split in ("test", "val"):
        calls[split] = planned(snakemake, *names, overlays=[{"domains": [4], "evaluate": {"split": split}}])
        real = [call for call in calls[split] if "split" in call]
        assert [(call["split"], call["output"]) for call in real] == [
            ([split], [f"results/faces/features/faces/{split}.safetensors"])
        ]
        assert {call["real"][0] for call in calls[split] if "real" in call} == {real[0]["output"][0]}
        protocols = [call["options"]["protocol"] for call in calls[split] if "protocol" in call["options"]]
        assert len(protocols) == 4 and {protocol["split"] for protocol in protocols} == {split}
    trained = [[call for call in calls[split] if "variant" in call["options"]] for split in calls]
    assert trained[0] == trained[1] and len(trained[0]) == 2


def test_a_dataset_without_a_val_split_is_labelled_without_and_not_scored_on_it(snakemake, tmp_path):
    for folder in ("train", "test", "pretrain"):
        (tmp_path / "data" / "photos" / folder).mkdir(parents=True)
    for name in ("clip-photos.json", "clip-photos.safetensors"):
        (tmp_path / "data" / "photos" / name).touch()
    learned = {"prompts": "learned"}
    result = snakemake("--dry-run", "--quiet", "rules", overlays=[CONFIGS / "photos.yaml", learned])
    jobs = count_jobs(result.stdout)
    assert (jobs["label_without_val"], jobs["relabel_without_val"]) == (12, 3)
    assert "label" not in jobs and "relabel" not in jobs
    result = snakemake("--dry-run", overlays=[CONFIGS / "photos.yaml", {"evaluate": {"split": "val"}}])
    assert "evaluate.split is 'val', which dataset.photos.shards lacks" in result.stdout


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
    assert {jobs["train"] + jobs["train_prompts"], jobs["translate"], jobs["score"]} == {30}
    assert (jobs["label"], jobs["relabel"]) == (60, 15)  # LANIT's prompts learn
    assert "train_clip" not in jobs and "train_judge" not in jobs


def test_the_readmes_example_of_own_images_builds_its_graph(snakemake, tmp_path):
    example = re.search(r"```yaml\n(# mine.yaml.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(example)
    (tmp_path / "photos").mkdir()
    result = snakemake("--dry-run", "--quiet", "rules", overlays=[CONFIGS / "paper.yaml", tmp_path / "mine.yaml"])
    assert result.returncode == 0, result.stdout
    jobs = count_jobs(result.stdout)
    assert (jobs["plan_shards"], jobs["write_shard"], jobs["score"]) == (1, 9, 2)
    assert jobs["train"] == jobs["train_prompts"] == 1  # TUNIT, and LANIT whose prompts learn


def test_the_readmes_example_of_variants_is_sound(monkeypatch):
    monkeypatch.chdir(ROOT)
    example = re.search(r"```yaml\n(methods:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    made = variants(yaml.safe_load(example))
    assert made["lanit_frozen"]["prompts"] == "frozen" and made["lanit_weak"]["settings"]["loss"]["dl"] == 0.01


def test_the_readmes_example_of_another_system_is_sound(monkeypatch, tmp_path):
    example = re.search(r"```yaml\n(external:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    with pytest.raises(
        configuration.Mistake, match=r"external\.styleclip\.images names translated/styleclip, where no folder"
    ):
        check(yaml.safe_load(example))
    (tmp_path / "translated" / "styleclip").mkdir(parents=True)
    assert check(yaml.safe_load(example))["external"]["styleclip"]["table"] is None


def test_the_papers_domains_are_lists_of_their_length():
    config = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    for dataset in config["dataset"].values():
        assert {n: len(names) for n, names in dataset["domains"].items()} == {n: n for n in (4, 7, 10, 13, 16)}
        assert dataset["classes"] == dataset["domains"][10]
        assert dataset["domains"][13][:10] == dataset["domains"][10]
        assert dataset["domains"][16][:13] == dataset["domains"][13]
        assert len(dataset["templates"]) == 9


def test_no_setting_of_the_demo_reaches_the_papers_sweep():
    """It is laid over the demo's: every setting that the demo changes is changed back to the paper's, the default, or,
    where the paper is silent, to that of the released code.

    The choices that are not a method's settings have no default; the paper's file names each of them.
    """
    from lanit import catalogue
    from lanit.config import parse
    from lanit.training.options import AugmentOptions

    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    paper = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    assert (paper["labeller"], paper["prompts"], paper["uncovered"]) == ("adaptive", "learned", "left_out")
    assert paper["clip"]["vit_b_32"]["resize"] == "corners"
    update_config(config, paper)
    released = {
        "lanit": {"network": {"base_channels": None}, "fully_covered": "left_out",
                  "prompts": {"learning_rate": 1e-6, "weight_decay": 1e-4}},
        "stargan2": {"network": {"base_channels": None}, "loss": {"real": "sources"}},
        "tunit": {"view": {"crop": "anywhere", "border": "black"}, "statistics": "separate"},
    }  # fmt: skip
    for method, settings in released.items():
        training, keys = config["train"][method], {"batch", "augment", "settings"}
        expected = catalogue.read_settings(method, settings)
        assert catalogue.read_settings(method, training["settings"]) == expected, method
        assert parse(AugmentOptions, training["augment"], method) == AugmentOptions(crop=method != "tunit")
        assert set(training) == keys | ({"images"} if method != "lanit" else set())
    # Iterations times batch, as released.
    assert config["train"]["images"] == 150_000 * config["train"]["lanit"]["batch"]
    assert config["train"]["stargan2"]["images"] == 100_000 * config["train"]["stargan2"]["batch"]
    assert config["train"]["tunit"]["images"] == 200_000 * config["train"]["tunit"]["batch"]


def test_what_the_papers_file_takes_from_released_code_says_so():
    """Every line that gives one of its values, or the first of those that a comment speaks of."""
    lines = (CONFIGS / "paper.yaml").read_text().splitlines()
    taken = (
        "resize: corners", "fully_covered: left_out", "weight_decay: 0.0001  #", "learning_rate: 0.000001  #", "view:",
        "images: 6400000", "images: 800000", "statistics:", "warmup:", "ema_start:", "base_channels: null",
        "augment: {crop: false, flip: true",
    )  # fmt: skip
    for key in taken:
        given = [line for line in lines if line.strip().startswith(key)]
        assert given and all("# released" in line for line in given), key


def test_how_clip_resizes_reaches_every_command_that_uses_it(snakemake):
    overlay = {"domains": [4], "methods": ["lanit"], "clip": {"faces": {"resize": "corners"}}}
    for command in ("lanit embed texts", "lanit embed images", "lanit train"):
        for call in planned(snakemake, command, overlays=[overlay]):
            options = call["options"].get("language", call["options"])
            assert options["clip"]["resize"] == "corners", command


def test_the_workflow_lints_clean(snakemake):
    result = snakemake("--lint")
    assert result.returncode == 0 and "good condition" in result.stdout, result.stdout


def planned(snakemake, *commands: str, overlays: list) -> list[dict]:
    """The arguments of every call of the commands that a dry run prints, `options` as what their JSON says."""
    result = snakemake("--dry-run", "--quiet", "progress", "--printshellcmds", overlays=overlays)
    assert result.returncode == 0, result.stdout
    return calls_in(result.stdout, *commands)


def calls_in(text: str, *commands: str) -> list[dict]:
    """The arguments of every call of the commands that Snakemake printed."""
    calls = []
    for line in text.splitlines():
        if any(f"-m {command} " in line for command in commands):
            words = shlex.split(line[line.rindex("-m lanit ") :].split("&>")[0].split("2>&1")[0])
            call: dict = {}
            for word in words[3:]:
                if word.startswith("--"):
                    values = call.setdefault(word[2:], [])
                elif call:  # what comes before names a part of the command
                    values.append(word)
            calls.append(call | {"options": json.loads(call.get("options", ["{}"])[0])})
    return calls


def count_jobs(text: str) -> dict[str, int]:
    """Rule → number of jobs, from the summary of a dry run."""
    return {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)}
