"""Training by any method: fixed bits, continued after a kill, exact on any number of processes, stopped by NaN."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from steps import take_step_without_waiting
from trainings import DOMAINS, OPTIONS, learned, model, options_of

from lanit.cli import main
from lanit.config import LanitError, parse
from lanit.data.rng import BatchRng
from lanit.files import read_tensors, write_tensors
from lanit.methods.lanit import Lanit
from lanit.settings.lanit import LanitOptions
from lanit.training import checkpoint, loop
from lanit.training.averaging import average
from lanit.training.distributed import World
from lanit.training.feed import Feed
from lanit.training.labelling import Inputs
from lanit.training.meter import Meter
from lanit.training.options import TrainOptions
from lanit.training.record import _duration
from lanit.training.stopping import StopRequest, alone_in

ONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(params=["tunit", "lanit", "stargan2"])
def options(request, language):
    """Options of each method."""
    return options_of(request.param, language)


@pytest.fixture
def run(inputs):
    """Train in this process; returns the model."""

    def train(output, options=OPTIONS, **changes):
        options = options | changes
        assert loop.train(parse(TrainOptions, options), inputs(options), output, None, ONE)
        return model(output)

    return train


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_a_model_its_description_its_losses_and_pictures(run, tmp_path):
    run(tmp_path)
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["images_seen"] == 48 and described["processes"] == 1 and described["options"]["seed"] == 3
    assert described["variant"] == "tunit"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6] and lines[-1]["images"] == 48
    assert lines[-1]["norm_generator"] > 0 and 0 < lines[-1]["memory_gib"] < 100
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [picture.name for picture in pictures] == ["00000024.png", "00000048.png"]
    assert Image.open(pictures[0]).size == (7 * 16 * 4, 7 * 16 * 4)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_of_lanit_carries_all_that_it_needs(run, language, tmp_path):
    weights = run(tmp_path, learned(language))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "run.json", "texts.safetensors", "prompts.json"} <= names
    assert {"clip.json", "clip.safetensors"} <= names
    assert weights["prompts.vectors"].shape == (3, 16)  # a, face, with
    told = json.loads((tmp_path / "prompts.json").read_text())
    assert told["labels"]["changed"] > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["share_without_domain"] < 1
    assert "norm_prompts" not in lines[0] and lines[-1]["norm_prompts"] > 0


def test_a_fixed_seed_gives_the_same_bits_and_another_seed_others(run, options, tmp_path):
    first = run(tmp_path / "a", options)
    assert same(first, run(tmp_path / "b", options))
    assert not same(first, run(tmp_path / "c", options, seed=4))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_after(steps, monkeypatch):
    real, taken = loop.average, []

    def counting(*arguments):
        taken.append(1)
        if len(taken) > steps:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(loop, "average", counting)


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_a_run_that_was_killed_continues_to_the_same_bits(run, options, tmp_path, monkeypatch, steps):
    """A checkpoint follows each step; prompts learn from the fourth on, labels are made anew before the fifth."""
    whole = run(tmp_path / "whole", options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(steps, patch)
        run(tmp_path / "killed", options)
    assert checkpoint.find(tmp_path / "killed" / "checkpoints")
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert same(whole, run(tmp_path / "killed", options))


@pytest.mark.parametrize("steps", [3, 4])
def test_the_log_of_a_continued_run_is_that_of_a_whole_one(run, tmp_path, monkeypatch, steps):
    """Whether or not it was killed where a line was written: means over two steps go on from a checkpoint between."""
    run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(steps, patch)
        run(tmp_path / "killed")
    run(tmp_path / "killed")
    told = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k and k != "memory_gib"}
            for line in (tmp_path / folder / "metrics.jsonl").open()
        ]
        for folder in ("whole", "killed")
    ]
    assert told[0] == told[1]


def test_a_checkpoint_of_other_options_is_not_continued(run, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        run(tmp_path / "x", seed=9)
    assert same(run(tmp_path / "x"), run(tmp_path / "y"))
    assert "other options: training starts from the beginning" in capsys.readouterr().out


def test_a_checkpoint_of_other_labels_is_not_continued(run, language, manifest, tmp_path, monkeypatch, capsys):
    """They were made anew, by another CLIP in the same place, say."""
    from lanit.language.pseudo_labels import read_labels, write_labels

    labels = tmp_path / "labels"
    shutil.copytree(language["labels"], labels)
    inputs = Inputs(manifest, labels, tuple(language["embeddings"]))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        loop.train(parse(TrainOptions, learned(language)), inputs, tmp_path / "x", None, ONE)
    found = read_labels(labels, "train")
    write_labels(dataclasses.replace(found, labels=~found.labels), labels, "train")
    assert loop.train(parse(TrainOptions, learned(language)), inputs, tmp_path / "x", None, ONE)
    assert "of other images or labels: training starts from the beginning" in capsys.readouterr().out


def test_labels_of_other_images_or_domains_are_an_error(run, language, manifest, tmp_path):
    from lanit.language.pseudo_labels import read_labels, write_labels

    message = "are of the domains hat, glasses, beard, and train.domains says beard, glasses, hat"
    with pytest.raises(LanitError, match=message):
        run(tmp_path, learned(language, domains=DOMAINS[::-1]))
    with pytest.raises(LanitError, match="lanit learns by language; give train.language its clip and templates"):
        run(tmp_path, learned(language) | {"language": None})
    labels = tmp_path / "labels"
    shutil.copytree(language["labels"], labels)
    found = read_labels(labels, "train")
    write_labels(dataclasses.replace(found, keys=found.keys[::-1]), labels, "train")
    with pytest.raises(LanitError, match="are not of the images in .*; label them again"):
        loop.train(parse(TrainOptions, learned(language)), Inputs(manifest, labels), tmp_path, None, ONE)


def test_options_that_only_watch_do_not_make_a_run_another(run, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        run(tmp_path / "x")
    run(tmp_path / "x", log_every=3, samples=1, checkpoints=2, checkpoint_minutes=1)
    assert "continuing after step 4" in capsys.readouterr().out


def test_the_newest_checkpoint_is_passed_over_where_it_is_damaged(run, tmp_path, monkeypatch, capsys):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        run(tmp_path / "x")
    folder = tmp_path / "x" / "checkpoints"
    assert [path.name for path in checkpoint.find(folder)] == ["000000003.pt", "000000004.pt"]
    newest = checkpoint.path_of(folder, 4)
    state = checkpoint.load(checkpoint.path_of(folder, 3))
    newest.write_bytes(newest.read_bytes()[:-100])
    (folder / ".000000005.pt.123").write_bytes(b"a kill in the middle of a checkpoint")
    assert same(whole, run(tmp_path / "x"))
    out, err = capsys.readouterr()
    assert "000000004.pt cannot be read" in err and "trying the one before" in err and "continuing after step 3" in out
    assert not folder.exists()
    # A damaged one is none of the two that are kept.
    for step, name in ((3, "ok"), (100, "damaged"), (5, "ok")):
        checkpoint.save(tmp_path / "y", step, state)
        if name == "damaged":
            checkpoint.path_of(tmp_path / "y", step).write_bytes(b"damaged")
    assert [path.name for path in checkpoint.find(tmp_path / "y")] == ["000000003.pt", "000000005.pt"]


def test_damaged_checkpoints_alone_are_an_error_not_a_new_start(run, tmp_path):
    for name in ("000000001.pt", "000000002.pt"):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / name).write_bytes(b"not a checkpoint")
    with pytest.raises(LanitError, match="no checkpoint in .* can be read; delete the folder to train from the start"):
        run(tmp_path)


def test_a_checkpoint_is_written_when_its_minutes_are_over(run, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, state: saved.append(step))
    run(tmp_path / "a", checkpoints=0, checkpoint_minutes=0)
    run(tmp_path / "b", checkpoints=0, checkpoint_minutes=60)
    assert saved == [1, 2, 3, 4, 5]


def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_bits(run, options, inputs, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", options)
    taken = []
    monkeypatch.setattr(StopRequest, "__bool__", lambda self: taken.append(1) or len(taken) == 3)
    given = parse(TrainOptions, options | {"checkpoints": 0})
    assert not loop.train(given, inputs(options), tmp_path / "x", None, ONE)
    assert [path.name for path in checkpoint.find(tmp_path / "x" / "checkpoints")] == ["000000003.pt"]
    assert same(whole, run(tmp_path / "x", options))


def test_a_second_ctrl_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_two_trainings_do_not_write_into_one_folder(tmp_path):
    refused = pytest.raises(LanitError, match="another training is at work")
    with alone_in(tmp_path), refused, alone_in(tmp_path, patience=0.3):
        pass
    with alone_in(tmp_path, patience=0):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_at_once_and_names_itself(run, tmp_path, monkeypatch, value):
    steps = []

    def poisoned(method, parts, *arguments):
        steps.append(parts[0].step)
        return {"fine": torch.tensor(1.0), "iic": torch.tensor(value if parts[0].step == 3 else 0.5)}

    monkeypatch.setattr(loop, "take_step", poisoned)
    with pytest.raises(LanitError, match="the loss iic is (nan|inf) after step 4, in the run in"):
        run(tmp_path, log_every=50)
    assert steps == [0, 1, 2, 3]  # not one more
    state = checkpoint.load(checkpoint.find(tmp_path / "checkpoints")[-1])
    assert state["step"] == 3 and not (tmp_path / "model.safetensors").exists()


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(run, tmp_path, monkeypatch):
    take = loop.take_step

    def broken(method, parts, *arguments):
        losses = take(method, parts, *arguments)
        if parts[0].step == 3:
            next(method.networks["generator"].parameters()).data.fill_(float("nan"))
        return losses

    monkeypatch.setattr(loop, "take_step", broken)
    with pytest.raises(LanitError, match="the norm of generator's weights is nan after step 4"):
        run(tmp_path)
    assert checkpoint.find(tmp_path / "checkpoints")[-1].name == "000000003.pt"


def test_a_meter_waits_for_nothing_and_averages_over_steps():
    meter = Meter()
    meter.add(1, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    meter.add(2, {"a": torch.tensor(3.0)})
    other = Meter()
    other.restore(meter.state(), is_main=True, device=torch.device("cpu"))
    assert meter.wrong() is None and meter.fetch() == other.fetch() == {"a": 2.0, "b": 2.0}
    meter.add(3, {"a": torch.tensor(float("inf")), "norm_mapping": torch.tensor(float("nan"))})
    assert meter.wrong() == "the loss a is inf after step 3" and meter.wrong() is None
    meter.add(4, {"norm_mapping": torch.tensor(float("nan"))})
    assert meter.wrong() == "the gradient norm of mapping is nan after step 4"


def test_what_a_batch_holds_does_not_depend_on_how_it_is_split(manifest):
    options = parse(TrainOptions, OPTIONS)
    (whole,) = Feed(options, manifest, ONE).parts(3)
    halves = [Feed(options, manifest, World(rank, 2, torch.device("cpu"))).parts(3) for rank in range(2)]
    accumulating = parse(TrainOptions, OPTIONS | {"accumulate": 2})
    quarters = [Feed(accumulating, manifest, World(rank, 2, torch.device("cpu"))).parts(3) for rank in range(2)]
    for split in (halves, quarters):
        parts = [part for process in split for part in process]
        assert torch.equal(whole.source, torch.cat([part.source for part in parts]))
        assert torch.equal(whole.reference, torch.cat([part.reference for part in parts]))
        assert sum(part.share for part in parts) == 1
    # What the images are flipped by goes on to the latents and flips of the step.
    torch.testing.assert_close(whole.rng.normal(5), torch.cat([half.rng.normal(5) for (half,) in halves]))
    assert not torch.equal(whole.source, whole.reference)
    assert isinstance(whole.rng, BatchRng) and whole.source.is_contiguous(memory_format=torch.channels_last)


def test_images_without_an_active_domain_are_never_drawn(manifest):
    found = np.zeros((32, 2), bool)
    found[[3, 7, 9, 11, 13, 20, 21, 30], [0, 1, 0, 1, 0, 1, 0, 1]] = True
    feed = Feed(parse(TrainOptions, OPTIONS), manifest, ONE)
    feed.label(found, "look at the prompts")
    assert feed.share_without == 0.75
    for step in range(4):
        (part,) = feed.parts(step)
        assert part.source_labels.any(1).all() and part.reference_labels.any(1).all()
        assert part.pairs == part.reference_labels.sum()
        assert part.source_pairs == part.source_labels.sum()
    found[3] = False
    with pytest.raises(LanitError, match="only 7 of 32 images have an active domain, .* look at the fixed threshold"):
        feed.label(found, "look at the fixed threshold")


@pytest.mark.parametrize("slack", [False, True])
def test_images_that_every_candidate_covers_are_drawn_or_not(manifest, slack):
    """They are known beforehand, too: no step is skipped for one, as in the released code."""
    found = np.zeros((32, 3 if slack else 2), bool)
    found[:20, 0], found[10:20, 1], found[20:, 2:] = True, True, True
    for fully_covered in ("drawn", "left_out"):
        language = {"clip": {}, "templates": ["a {}."], "uncovered": "slack" if slack else "left_out"}
        settings = {"network": {"base_channels": 4, "max_channels": 8, "bottleneck": 4}, "fully_covered": fully_covered}
        method = Lanit(parse(LanitOptions, settings), 16, ["a", "b"], language=language)
        feed = Feed(parse(TrainOptions, OPTIONS), manifest, ONE)
        feed.draw_as(method)
        feed.label(found, "")
        covered = set(range(20 if fully_covered == "drawn" else 10)) | set(range(20, 32) if slack else ())
        assert set(feed.pool.tolist()) == covered and feed.share_without == (0 if slack else 0.375)


def test_few_images_with_a_label_are_a_warning_and_samples_stay_the_same(manifest, capsys, monkeypatch):
    found = np.ones((32, 2), bool)
    feed = Feed(parse(TrainOptions, OPTIONS), manifest, ONE)
    feed.label(found, "look at the prompts")
    first = feed.samples()
    assert not capsys.readouterr().err
    monkeypatch.setattr("lanit.training.feed.SCARCE", 0.5)
    found[8:] = False
    feed.label(found, "look at the prompts")
    assert "warning: only 8 of 32 images have an active domain; look at the prompts" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(first, feed.samples()))


def test_pairs_are_counted_over_the_whole_batch_on_every_process(manifest):
    """Half of these images have one domain, half two: a part's own pairs are seldom half of all."""
    found = np.ones((32, 2), bool)
    found[:16, 1] = False
    pairs, own = np.zeros((2, 4)), np.zeros((2, 4))
    for rank in range(2):
        feed = Feed(parse(TrainOptions, OPTIONS), manifest, World(rank, 2, torch.device("cpu")))
        feed.label(found, "look at the prompts")
        for step in range(4):
            (part,) = feed.parts(step)
            pairs[rank, step], own[rank, step] = part.pairs, part.reference_labels.sum()
    assert (pairs == own.sum(0)).all() and (own[0] != own[1]).any()


def test_a_batch_is_drawn_once_even_where_few_images_have_a_label(manifest):
    """The released code draws until every image has a label: at 8 in 32 that is 4⁸ times."""
    found = np.zeros((32, 2), bool)
    found[:8, 0] = True
    feed = Feed(parse(TrainOptions, OPTIONS), manifest, ONE)
    feed.label(found, "look at the prompts")
    reads, read = [], feed.store.read
    feed.store.read = lambda rows: reads.append(len(rows)) or read(rows)
    feed.parts(0)
    assert reads == [8, 8]


def test_an_average_moves_by_its_decay_and_copies_buffers():
    networks = torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(2), "b": torch.nn.Linear(2, 2)})
    averaged = torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(2), "b": torch.nn.Linear(2, 2)})
    for parameter, value in ((networks["a"].weight, 3.0), (averaged["a"].weight, 1.0)):
        torch.nn.init.constant_(parameter, value)
    networks["a"].running_mean.fill_(5.0)
    untouched = averaged["b"].weight.clone()
    average(averaged, networks, {"a": 0.75})
    assert averaged["a"].weight.tolist() == [1.5, 1.5] and averaged["a"].running_mean.tolist() == [5.0, 5.0]
    assert torch.equal(averaged["b"].weight, untouched)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"imagse": 3}, "unknown key 'imagse'; did you mean 'images'"),
        ({"batch": 0}, "train.batch must be at least 1, not 0"),
        ({"method": "lanit"}, "trains on pseudo labels; give their folder with --labels"),
        ({"device": "cuda"}, "torch sees no GPU here"),
        ({"settings": {"network": {"bsae": 4}}}, r"train.tunit.settings.network has an unknown key 'bsae'"),
        ({"accumulate": 2}, "tunit learns from whole batches: train.accumulate must be 1"),
        ({"accumulate": 3}, "train.batch 8 does not divide among 1 processes of 3 parts each; use a multiple of 3"),
        ({"precision": "fp16"}, "train.precision must be one of fp32, bf16, not 'fp16'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(manifest, tmp_path, capsys, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    options = json.dumps(OPTIONS | changes)
    assert main(["train", "--options", options, "--manifest", str(manifest), "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_real_images_are_never_encoded_and_texts_once_a_step_in_the_second_phase(run, language, tmp_path, monkeypatch):
    """Six steps of eight images: the prompts learn in the last three, and labels are made anew before the fifth."""
    from lanit.language.clip import Clip
    from lanit.language.learned import Prompts

    encoded, texts, encode, forward = [], [], Clip.encode_image, Prompts.forward
    monkeypatch.setattr(
        Clip, "encode_image", lambda self, images: encoded.append(images.detach()) or encode(self, images)
    )
    monkeypatch.setattr(Prompts, "forward", lambda self: texts.append(torch.is_grad_enabled()) or forward(self))
    run(tmp_path, learned(language))
    assert [len(images) for images in encoded] == [16] * 6  # ŷ and ŷ', once a step
    # None of them is a picture of whole numbers.
    assert not any((images * 127.5 + 127.5).frac().abs().max() < 1e-3 for images in encoded)
    assert texts.count(True) == 3 and texts.count(False) == 3  # where they start, new labels, and the run's own texts


def test_prompts_that_learn_ask_for_the_embeddings_of_all_images(manifest, language, tmp_path):
    options = parse(TrainOptions, learned(language))
    with pytest.raises(LanitError, match="give their files with --embeddings"):
        loop.train(options, Inputs(manifest, language["labels"]), tmp_path, None, ONE)
    with pytest.raises(LanitError, match="16 of 32 labelled images have no embedding"):
        loop.train(options, Inputs(manifest, language["labels"], (language["embeddings"][0],)), tmp_path, None, ONE)


def test_embeddings_of_a_clip_that_sees_otherwise_than_the_labels_are_refused(manifest, language, tmp_path):
    arrays, metadata = read_tensors(language["embeddings"][1], ("embeddings", "keys"), "lanit embed")
    write_tensors(tmp_path / "other.safetensors", arrays, metadata | {"clip": "0123456789ab"})
    inputs = Inputs(manifest, language["labels"], (language["embeddings"][0], tmp_path / "other.safetensors"))
    with pytest.raises(LanitError, match="other.safetensors is of another CLIP than the texts in .*labels"):
        loop.train(parse(TrainOptions, learned(language)), inputs, tmp_path / "run", None, ONE)


def test_a_batch_that_does_not_divide_among_processes_is_an_error(manifest, tmp_path):
    with pytest.raises(LanitError, match="does not divide among 3 processes; use a multiple of 3"):
        loop.Training(parse(TrainOptions, OPTIONS), Inputs(manifest), tmp_path, World(0, 3, torch.device("cpu")))


def test_time_left_is_told_in_units_of_people():
    assert [_duration(seconds) for seconds in (5.4, 125, 7 * 3600 + 61)] == ["5 s", "2 min 05 s", "7 h 01 min"]


def test_networks_made_faster_by_the_compiler_train_the_same(run, language, tmp_path, monkeypatch):
    compiled, real = [], torch.compile
    # The compiler's own capture and differentiation, without the C++ that a machine may lack.
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or real(part, backend="aot_eager"))
    plain = run(tmp_path / "plain", learned(language))
    fast = run(tmp_path / "fast", learned(language), compile=True)
    assert len(compiled) >= 3
    for name, value in plain.items():
        assert (value - fast[name]).abs().mean() < 2e-3, name


def test_networks_in_bfloat16_train_and_leave_a_model_in_float32(run, options, tmp_path, monkeypatch):
    seen, take = [], loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda *given: seen.append(given[2]) or take(*given))
    weights = run(tmp_path, options, precision="bf16")
    assert seen == ["bf16"] * 6
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}


def test_nothing_in_a_step_with_a_real_clip_makes_the_host_wait(manifest, language, tmp_path):
    options = parse(TrainOptions, learned(language))
    inputs = Inputs(manifest, language["labels"], tuple(language["embeddings"]))
    training = loop.Training(options, inputs, tmp_path, ONE)
    for step in (0, 4):  # the prompts learn in the second
        take_step_without_waiting(training.method, *training.feed.parts(step))
