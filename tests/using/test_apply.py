"""Using a trained model: `lanit apply`, on tiny runs whose weights are random."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file, save_model

from lanit.cli import main
from lanit.config import LanitError
from lanit.data.images import read_image
from lanit.evaluation.translate import Translator
from lanit.language.pseudo_labels import Texts, adaptive, write_texts
from lanit.methods import create_method
from lanit.using.apply import find_domains
from lanit.using.grid import draw_grid

SIZE = 32
DOMAINS = ["blond hair", "hat", "Smiling", "salt, pepper"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NETWORKS = {
    "lanit": {"base_channels": 8, "max_channels": 16, "style_size": 8, "latent_size": 5, "hidden_size": 16},
    "stargan2": {"base_channels": 8, "max_channels": 16, "style_size": 8, "latent_size": 5, "hidden_size": 16},
    "tunit": {"base": 4, "guiding_base": 8, "max_width": 32, "style": 8, "residual_blocks": 1, "hidden": 16},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights: the path of its configuration, and of its weights."""
    import open_clip

    from lanit.language.clip import find_model

    config = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    config.write_text(json.dumps(CLIP))
    torch.manual_seed(1)
    save_file(open_clip.create_model(find_model(str(config))).state_dict(), config.with_suffix(".safetensors"))
    return config, config.with_suffix(".safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clip):
    """Folders of a run of each method in NETWORKS."""
    folders = {}
    for name, sizes in NETWORKS.items():
        torch.manual_seed(0)
        settings = {"network": {**sizes, "bottleneck": 8}}
        method = create_method(name, settings, SIZE, DOMAINS)
        if name != "tunit":
            for parameter in method.averaged.parameters():  # so that a style changes a picture that no one trained
                parameter += 0.2 * torch.randn_like(parameter)
        else:
            clusters, styles = method.averaged["clusters"], torch.randn(200, 8)
            clusters.update(styles, styles[:, :4])
        folder = folders[name] = tmp_path_factory.mktemp(name)
        save_model(method.averaged, folder / "model.safetensors")
        language = {"clip": {"model": str(clip[0]), "pretrained": str(clip[1])}, "templates": ["a face with {}."]}
        options = {"dataset": "faces", "method": name, "variant": name, "domains": DOMAINS, "seed": 0, "size": SIZE,
                   "images": 8, "batch": 4, "settings": settings, "language": language}  # fmt: skip
        record = {key: options[key] for key in ("dataset", "method", "variant", "domains", "seed")}
        record |= {"options": options, "images_seen": 8, "train_seconds": 1.0, "code": "abc", "config": "0123"}
        (folder / "run.json").write_text(json.dumps(record))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    write_texts(Texts(tuple(DOMAINS), rows[:4], rows[4]), folders["lanit"] / "texts.safetensors")
    return folders


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of several kinds: wide, upright by EXIF alone, grey, and half transparent."""
    folder, rng = tmp_path / "photos", np.random.default_rng(1)
    folder.mkdir()
    noise = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((40, 60), 3) for _ in range(4)]
    noise[0].resize((90, 50)).save(folder / "a wide one.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    noise[1].save(folder / "b.JPG", "JPEG", exif=exif)
    noise[2].convert("L").save(folder / "c.webp")
    noise[3].putalpha(128)
    noise[3].save(folder / "d.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "below").mkdir()
    noise[0].save(folder / "below" / "e.png")
    return folder


@pytest.fixture
def use(runs, photos):
    """Translate, and return the exit code; `source` is a name in the folder of photos, or "" for the folder."""

    def call(output, *arguments, source="a wide one.png", method="lanit", run=None):
        run = run or runs[method]
        return main(["apply", "--run", str(run), "--source", str(photos / source), "--output", str(output)]
                    + [str(argument) for argument in arguments])  # fmt: skip

    return call


class Store:
    """Pictures, in the place of a split's."""

    def __init__(self, *paths):
        self.images = torch.from_numpy(np.stack([read_image(path, SIZE) for path in paths])).permute(0, 3, 1, 2)

    def read(self, rows):
        return self.images[rows]

    @property
    def floats(self):
        return self.images.float() / 127.5 - 1


def load(folder):
    from lanit.methods import load_method

    return load_method(folder)


def seen(clip_files, run, images):
    """Labels (M, N) that CLIP gives images in [-1, 1], the nearest domain where it gives none; and which those are."""
    from lanit.language.clip import ClipOptions, load_clip
    from lanit.language.pseudo_labels import read_texts

    texts, clip = read_texts(run / "texts.safetensors"), load_clip(ClipOptions(*map(str, clip_files)))
    embeddings = clip.encode_image(images).numpy()
    cosines = embeddings @ texts.domains.T
    labels = adaptive(cosines, embeddings @ texts.base)
    without = ~labels.any(1)
    labels[without, cosines[without].argmax(1)] = True
    return labels, without


def expect(path, method, images, styles):
    """The picture at `path` is the translation that the stage would make, to the bit."""
    translator = Translator(method, None, None)
    translator.read = lambda rows: images
    expected = translator.translate(None, styles)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    assert expected.std() > 0


def test_a_text_translates_as_the_stage_does_with_a_style_of_all_its_domains(use, runs, photos, tmp_path, capsys):
    assert use(tmp_path / "out.png", "--text", " SMILING,  blond   Hair", "--seed", 7) == 0
    out = capsys.readouterr().out
    assert out == f"1 translation by lanit with 4 domains, in {tmp_path / 'out.png'}\n"
    method, images = load(runs["lanit"]), Store(photos / "a wide one.png").floats
    style = method.latent_style(torch.tensor([[1.0, 0, 1, 0]]), torch.Generator().manual_seed(7))
    expect(tmp_path / "out.png", method, images, style)


def test_a_reference_gives_its_style_in_the_domains_that_clip_sees(use, runs, clip, photos, tmp_path):
    from lanit.language.clip import ClipOptions, load_clip

    method, images = load(runs["lanit"]), Store(photos / "a wide one.png").floats
    names = ("b.JPG", "c.webp", "d.png")
    # The last reference is as near to the base prompt as can be: it is above the threshold in no domain.
    references = Store(*(photos / name for name in names)).floats
    first, second, base = load_clip(ClipOptions(*map(str, clip))).encode_image(references)
    texts = torch.stack([-base, first, second, -first]).numpy()
    run = shutil.copytree(runs["lanit"], tmp_path / "run")
    write_texts(Texts(tuple(DOMAINS), texts, base.numpy()), run / "texts.safetensors")
    cases = []
    for name in names:
        reference = Store(photos / name).floats
        labels, without = seen(clip, run, reference)
        cases.append(bool(without[0]))
        assert use(tmp_path / "out.png", "--reference", photos / name, run=run) == 0
        style = method.reference_style(reference, torch.from_numpy(labels).float())
        expect(tmp_path / "out.png", method, images, style)
    assert cases == [False, False, True]


def test_a_reference_with_a_text_gives_its_style_in_exactly_these_domains(use, runs, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lanit.language.clip.load_clip", None)  # no need of it
    assert use(tmp_path / "out.png", "--reference", photos / "d.png", "--text", "hat, salt, pepper") == 0
    method, images = load(runs["lanit"]), Store(photos / "a wide one.png").floats
    style = method.reference_style(Store(photos / "d.png").floats, torch.tensor([[0.0, 1, 0, 1]]))
    expect(tmp_path / "out.png", method, images, style)


@pytest.mark.parametrize("method", ["lanit", "tunit"])
def test_strength_goes_from_the_sources_own_style_to_the_targets(use, runs, clip, photos, tmp_path, method):
    domains = ["hat", "smiling"] if method == "lanit" else ["Cluster 2", "cluster 3"]
    for domain in domains:
        assert use(tmp_path / f"{domain}.png", "--text", domain, "--strength", 0, method=method) == 0
        assert use(tmp_path / f"{domain} half.png", "--text", domain, "--strength", 0.5, method=method) == 0
    model, images = load(runs[method]), Store(photos / "a wide one.png").floats
    labels = torch.from_numpy(seen(clip, runs["lanit"], images)[0]).float() if method == "lanit" else None
    own = model.reference_style(images, labels)
    for column, domain in enumerate(domains, start=1):
        expect(tmp_path / f"{domain}.png", model, images, own)
        target = model.latent_style(torch.eye(4)[[column]], torch.Generator().manual_seed(0))
        expect(tmp_path / f"{domain} half.png", model, images, torch.lerp(own, target, 0.5))


def test_a_seed_repeats_its_style_and_another_draws_another(use, tmp_path):
    for name, seed in (("default", []), ("zero", ["--seed", 0]), ("one", ["--seed", 1])):
        assert use(tmp_path / f"{name}.png", "--text", "hat", *seed) == 0
    default, zero, one = ((tmp_path / f"{name}.png").read_bytes() for name in ("default", "zero", "one"))
    assert default == zero != one


def test_tunit_takes_clusters_by_number_and_references_without_clip(use, runs, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lanit.language.clip.load_clip", None)
    method, images = load(runs["tunit"]), Store(photos / "a wide one.png").floats
    assert use(tmp_path / "out.png", "--text", "cluster 2, CLUSTER 4", method="tunit") == 0
    style = method.latent_style(torch.tensor([[0.0, 1, 0, 1]]), torch.Generator().manual_seed(0))
    expect(tmp_path / "out.png", method, images, style)
    assert use(tmp_path / "out.png", "--reference", photos / "b.JPG", method="tunit") == 0
    expect(tmp_path / "out.png", method, images, method.reference_style(Store(photos / "b.JPG").floats))


def test_a_supervised_method_takes_domains_that_are_named(use, runs, photos, tmp_path, capsys):
    method, images = load(runs["stargan2"]), Store(photos / "a wide one.png").floats
    assert use(tmp_path / "out.png", "--text", "hat", method="stargan2") == 0
    hat = torch.tensor([[0.0, 1, 0, 0]])
    expect(tmp_path / "out.png", method, images, method.latent_style(hat, torch.Generator().manual_seed(0)))
    assert use(tmp_path / "out.png", "--reference", photos / "b.JPG", "--text", "hat", method="stargan2") == 0
    expect(tmp_path / "out.png", method, images, method.reference_style(Store(photos / "b.JPG").floats, hat))
    capsys.readouterr()
    for arguments in (["--reference", photos / "b.JPG"], ["--text", "hat", "--strength", 0.5]):
        assert use(tmp_path / "none.png", *arguments, method="stargan2") == 2
        message = "name those of a reference with --text, at the full --strength"
        assert message in capsys.readouterr().err and not (tmp_path / "none.png").exists()


def test_a_folder_gives_a_picture_of_each_name_and_leaves_out_what_is_damaged(use, runs, photos, tmp_path, capsys):
    whole = (photos / "a wide one.png").read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])
    assert use(tmp_path / "out", "--text", "hat", source="") == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a wide one.png", "b.png", "c.png", "d.png"]
    assert printed.out.startswith("4 translations by lanit") and printed.err.count("\n") == 1
    assert f"{photos / 'broken.png'} cannot be used (damaged: " in printed.err
    for name in ("b", "c", "d"):
        pixels = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        assert pixels.shape == (SIZE, SIZE, 3)
    # A picture translates in a batch as it does alone, but for rounding.
    assert use(tmp_path / "alone.png", "--text", "hat", source="b.JPG") == 0
    together, alone = (np.asarray(Image.open(path)) for path in (tmp_path / "out" / "b.png", tmp_path / "alone.png"))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_several_targets_are_files_with_both_names(use, runs, photos, tmp_path):
    assert use(tmp_path / "out", "--text", "hat", "--text", "Blond hair, salt, pepper", source="") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = ("a wide one", "b", "c", "d")
    assert names == {f"{stem}-{target}.png" for stem in stems for target in ("hat", "blond_hair_salt_pepper")}
    arguments = ["--reference", photos / "b.JPG", photos / "c.webp", "--text", "hat"]
    assert use(tmp_path / "other", *arguments) == 0
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"a wide one-b-hat.png", "a wide one-c-hat.png"}
    # A target's picture does not depend on the other targets.
    assert use(tmp_path / "alone", "--text", "hat", source="") == 0
    assert (tmp_path / "alone" / "c.png").read_bytes() == (tmp_path / "out" / "c-hat.png").read_bytes()


def test_a_grid_has_targets_in_its_first_row_and_sources_in_its_first_column(use, photos, tmp_path):
    arguments = ["--text", "hat", "--text", "blond hair, smiling"]
    assert use(tmp_path / "grid.png", "--grid", *arguments, source="") == 0
    assert use(tmp_path / "single", *arguments, source="") == 0
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (5 * 128, 3 * 128, 3)
    cells = grid.reshape(5, 128, 3, 128, 3).swapaxes(1, 2)
    assert (cells[0, 0] == 255).all()
    for words in cells[0, 1:]:  # black on white
        assert (words[[0, -1]] == 255).all() and (words[:, [0, -1]] == 255).all() and 0.005 < (words < 128).mean() < 0.4
    for row, name in enumerate(["a wide one.png", "b.JPG", "c.webp", "d.png"], start=1):
        np.testing.assert_array_equal(cells[row, 0][::4, ::4], read_image(photos / name, SIZE))
        for column, target in enumerate(["hat", "blond_hair_Smiling"], start=1):
            file = tmp_path / "single" / f"{(photos / name).stem}-{target}.png"
            np.testing.assert_array_equal(cells[row, column][::4, ::4], np.asarray(Image.open(file)))
            np.testing.assert_array_equal(cells[row, column][3::4, 3::4], np.asarray(Image.open(file)))


def test_a_grid_shows_references_with_their_words_on_them(use, photos, tmp_path):
    references = [photos / "b.JPG", photos / "c.webp"]
    assert use(tmp_path / "grid.png", "--grid", "--reference", *references) == 0
    header = np.asarray(Image.open(tmp_path / "grid.png"))[:128]
    for column, path in enumerate(references, start=1):
        np.testing.assert_array_equal(header[::4, 128 * column : 128 * column + 128 : 4], read_image(path, SIZE))
    assert use(tmp_path / "words.png", "--grid", "--reference", *references, "--text", "hat") == 0
    written = (np.asarray(Image.open(tmp_path / "words.png"))[:128] != header).any(-1)
    assert written[100:, 128:].mean() > 0.02 and not written[:64].any() and not written[:, :128].any()  # at the foot


def test_cells_of_a_grid_are_never_made_smaller():
    image = np.zeros((160, 160, 3), np.uint8)
    assert draw_grid([(image, None), (None, "a very " + "long " * 60)], [[image] * 3]).shape == (320, 480, 3)


def test_a_picture_is_written_in_the_format_of_its_suffix(use, tmp_path):
    for suffix, kind in ((".jpg", "JPEG"), (".webp", "WEBP"), (".PNG", "PNG")):
        assert use(tmp_path / f"new folder/out{suffix}", "--text", "hat") == 0
        assert Image.open(tmp_path / f"new folder/out{suffix}").format == kind


@pytest.mark.parametrize(
    "text, found",
    [
        ("hat", [1]),
        (" HAT ,hat", [1, 1]),
        ("smiling,Blond  Hair", [2, 0]),
        ("salt, pepper", [3]),
        ("salt,PEPPER, hat", [3, 1]),
        ("hat,", [1]),
    ],
)
def test_domains_are_found_whatever_their_case_and_spaces(text, found):
    assert find_domains(text, DOMAINS) == found


def test_the_longest_name_and_then_the_exact_spelling_are_taken():
    assert find_domains("red, white, blue, red", ["red", "red, white", "blue"]) == [1, 2, 0]
    assert find_domains("Turkey, turkey, TURKEY", ["turkey", "Turkey"]) == [1, 0, 0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("hat, blnd hair", "the run has no domain 'blnd hair'; did you mean 'blond hair'?"),
        ("smilling", "the run has no domain 'smilling'; did you mean 'Smiling'?"),
        ("zebra", "the run has no domain 'zebra'; there are blond hair; hat; Smiling; salt, pepper"),
        (" , ", "--text names no domain; there are blond hair; hat; Smiling; salt, pepper"),
    ],
)
def test_a_misspelt_domain_gets_a_suggestion_or_the_list(text, message, use, tmp_path, capsys):
    with pytest.raises(LanitError) as caught:
        find_domains(text, DOMAINS)
    assert str(caught.value) == message
    assert use(tmp_path / "out.png", "--text", text) == 2
    assert capsys.readouterr().err == f"lanit apply: error: {message}\n"


TEXT = ["--text", "hat"]


@pytest.mark.parametrize(
    "source, output, arguments, message",
    [
        ("d.png", "o.png", [], "--source needs a target: give --text"),
        ("d.png", "o.png", [*TEXT, "--strength", "1.5"], "--strength must be from 0 "),
        ("d.png", "o.png", [*TEXT, "--strength", "nan"], "--strength must be from 0 "),
        ("d.png", "o.png", [*TEXT, "--seed", "-1"], "--seed must be a whole number from 0"),
        ("d.png", "o.png", ["--reference", "b.JPG", "--seed", "1"], "--seed is of styles drawn for --text"),
        ("d.png", "o", [*TEXT, *TEXT, "--reference", "b.JPG", "d.png"], "are too many targets"),
        ("none.png", "o.png", TEXT, "no picture or folder at"),
        ("d.png", "o.png", ["--reference", "none.png"], "no picture at none.png; give --reference"),
        ("notes.txt", "o.png", TEXT, "notes.txt cannot be used (not a JPEG, PNG, WebP, TIFF, BMP or GIF image"),
        (
            "d.png",
            "o.png",
            ["--reference", "notes.txt"],
            "notes.txt cannot be used (not a JPEG, PNG, WebP, TIFF, BMP or GIF image",
        ),
        ("d.png", "o", TEXT, "one picture is made, so --output must be a .png"),
        ("", "o", [*TEXT, "--grid"], "one picture is made, so --output must be a .png"),
        ("d.png", "dir.png", TEXT, "one picture is made, so --output must be a .png"),
        ("", "o.png", TEXT, "several pictures are made, so --output must be a folder"),
        ("d.png", "notes.txt", [*TEXT, "--text", "smiling"], "several pictures are made, so --output must be a folder"),
        ("d.png", "d.png", TEXT, "d.png is a picture that is read here"),
        ("", ".", TEXT, "is a picture that is read here"),
        ("d.png", "o", [*TEXT, "--text", "HAT"], "d-hat.png would be written twice"),
        ("d.png", "notes.txt/o.png", TEXT, "cannot be written"),
    ],
)
def test_mixed_up_arguments_get_one_sentence(source, output, arguments, message, use, photos, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "dir.png").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in photos.iterdir()}
    assert use(output, *arguments, source=source) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("lanit apply: error: ")
    assert before == {path: path.is_file() and path.read_bytes() for path in photos.iterdir()}


def test_a_folder_of_which_nothing_can_be_read_is_an_error(use, photos, tmp_path, capsys):
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    assert use(tmp_path / "out", *TEXT, source=empty) == 2
    assert "holds no JPEG, PNG or WebP file" in capsys.readouterr().err
    broken.mkdir()
    (broken / "x.png").write_bytes(b"no picture")
    assert use(tmp_path / "out", *TEXT, source=broken) == 2
    left_out, error = capsys.readouterr().err.splitlines()
    assert "x.png cannot be used" in left_out and "none of the 1 pictures in" in error
    assert not (tmp_path / "out").exists()
    shutil.copy(photos / "d.png", broken / "twice.png")
    shutil.copy(photos / "d.png", broken / "twice.jpg")
    assert use(tmp_path / "out", *TEXT, source=broken) == 2
    assert "twice.png would be written twice" in capsys.readouterr().err


def test_tunit_takes_no_reference_in_chosen_domains(use, photos, tmp_path, capsys):
    arguments = ["--reference", photos / "d.png", "--text", "cluster 1"]
    assert use(tmp_path / "o.png", *arguments, method="tunit") == 2
    assert "takes a reference's style whatever its domains; leave out --text" in capsys.readouterr().err


def test_a_run_that_does_not_tell_its_language_still_takes_texts(use, runs, photos, tmp_path, capsys):
    run = shutil.copytree(runs["lanit"], tmp_path / "run")
    (run / "texts.safetensors").unlink()
    assert use(tmp_path / "o.png", *TEXT, run=run) == 0
    assert use(tmp_path / "o.png", *TEXT, "--strength", 0.5, run=run) == 2
    assert "does not say how images are labelled" in capsys.readouterr().err


def test_a_run_folder_carries_its_clip(use, runs, clip, photos, tmp_path):
    run = shutil.copytree(runs["lanit"], tmp_path / "moved")
    for path in clip:
        shutil.copy(path, run / f"clip{path.suffix}")
    record = json.loads((run / "run.json").read_text())
    record["options"]["language"]["clip"] = {"model": "/gone/clip.json", "pretrained": "/gone/clip.safetensors"}
    (run / "run.json").write_text(json.dumps(record))
    assert use(tmp_path / "moved.png", "--reference", photos / "b.JPG", run=run) == 0
    assert use(tmp_path / "there.png", "--reference", photos / "b.JPG") == 0
    assert (tmp_path / "moved.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_a_run_s_clip_that_is_another_by_now_is_refused(use, runs, clip, photos, tmp_path, capsys):
    """Its preprocessing, say, that a configuration beside the weights told when it was trained."""
    from lanit.language.clip import ClipOptions, load_clip
    from lanit.language.pseudo_labels import read_texts

    run = shutil.copytree(runs["lanit"], tmp_path / "run")
    texts, digest = read_texts(run / "texts.safetensors"), load_clip(ClipOptions(*map(str, clip))).digest
    write_texts(replace(texts, clip=digest), run / "texts.safetensors")
    assert use(tmp_path / "out.png", "--reference", photos / "b.JPG", run=run) == 0
    write_texts(replace(texts, clip="0123456789ab"), run / "texts.safetensors")
    assert use(tmp_path / "out.png", "--reference", photos / "b.JPG", run=run) == 2
    assert "is of another CLIP than the texts in" in capsys.readouterr().err


def test_a_text_at_full_strength_loads_no_clip(runs, photos, tmp_path):
    command = ["apply", "--run", str(runs["lanit"]), "--source", str(photos), *TEXT, "--output", str(tmp_path)]
    code = f"import sys; from lanit.cli import main; print(main({command!r}), 'open_clip' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
