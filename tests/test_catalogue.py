"""The catalogue: every entry leads to a method that is what its supervision says."""

import json
import subprocess
import sys

import pytest
from small import settings_of

from lanit import catalogue
from lanit.config import LanitError
from lanit.methods import create_method
from lanit.methods.protocol import ClusteringMethod, LabelledMethod, LanguageMethod, Method

DOMAINS = ["hat", "glasses", "beard"]
PROTOCOLS = {  # by supervision: what a method must be, and what it must not
    "truth": ({LabelledMethod}, {LanguageMethod, ClusteringMethod}),
    "text": ({LabelledMethod, LanguageMethod}, {ClusteringMethod}),
    "none": ({ClusteringMethod}, {LabelledMethod, LanguageMethod}),
}


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_a_method_is_what_its_supervision_says(name):
    entry = catalogue.METHODS[name]
    assert entry.name == name and entry.title
    language = {"clip": {}, "templates": ["a face with {}."]} if entry.supervision == "text" else None
    method = create_method(name, settings_of(name), 16, DOMAINS, language)
    assert type(method) is catalogue.load(entry.module)
    wanted, unwanted = PROTOCOLS[entry.supervision]
    assert all(isinstance(method, protocol) for protocol in (Method, *wanted))
    assert not any(isinstance(method, protocol) for protocol in unwanted)
    assert entry.is_labelled == isinstance(method, LabelledMethod)
    assert method.optimisers().keys() <= dict(method.networks.items()).keys()
    assert set(method.averaged.keys()) <= set(method.networks.keys()) and set(method.averaging(0.99)) <= set(
        method.averaged.keys()
    )


def test_settings_are_read_without_torch():
    """All at once, since every option of a sweep is read before anything runs."""
    code = (
        "import json, sys; from lanit import catalogue\n"
        "for name, settings in json.loads(sys.argv[1]).items():\n"
        "    catalogue.read_settings(name, settings).check(16, 3)\n"
        "heavy = {'torch', 'numpy', 'open_clip', 'pandas', 'mlflow', 'matplotlib'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    settings = json.dumps({name: settings_of(name) for name in catalogue.METHODS})
    done = subprocess.run([sys.executable, "-c", code, settings], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "loaded []\n", done.stdout + done.stderr


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_defaults_are_settings_and_a_key_that_is_none_is_named(name):
    assert catalogue.read_settings(name, {}) == catalogue.load(catalogue.METHODS[name].settings)()
    with pytest.raises(LanitError, match=rf"^train\.{name}\.settings has an unknown key 'nonsense'; known are "):
        catalogue.read_settings(name, {"nonsense": 1})
    with pytest.raises(LanitError, match="^train.other.settings has an unknown key 'nonsense'"):
        catalogue.read_settings(name, {"nonsense": 1}, "train.other.settings")


def test_a_method_that_is_not_there_is_named():
    with pytest.raises(LanitError, match="there is no method 'stargan'; did you mean 'stargan2'?"):
        catalogue.find("stargan")
    with pytest.raises(LanitError, match="there is no method 'cyclegan'; known are stargan2, .*, lanit"):
        catalogue.find("cyclegan")
