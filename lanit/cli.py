"""The command line: one subcommand a stage, each defined in the module of its name and imported only when called."""

from __future__ import annotations

import argparse
import importlib
import io
import sys

from lanit import __version__
from lanit.config import LanitError
from lanit.failures import explain

# Subcommand → (module that defines it, one line of help). A module has `add_arguments(parser)`, which sets `run`.
COMMANDS = {
    "shard": ("lanit.data.shard", "shard a dataset into WebDataset tars with a manifest"),
    "embed": ("lanit.language.embed", "train a small CLIP, embed texts, embed shards"),
    "label": ("lanit.language.label", "make multi-hot pseudo labels from cached embeddings"),
    "train": ("lanit.training.train", "train one method (run it under torchrun)"),
    "translate": ("lanit.evaluation.translate", "translate test images, for the scores"),
    "evaluate": ("lanit.evaluation.evaluate", "train a judge, extract real features, score translations"),
    "compare": ("lanit.comparison.compare", "gather scores into tables, plots, pictures and a report"),
    "apply": ("lanit.using.apply", "translate pictures of your own with a trained model"),
    "track": ("lanit.comparison.track", "enter in MLflow what its store lacks of a sweep"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0, or 2 after a mistake that the user can mend or what the machine did not allow."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # what a terminal's encoding lacks is printed as \u2026: nothing ends by it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="lanit", description="Language-driven image-to-image translation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    try:
        for name, (module, text) in COMMANDS.items():
            command = commands.add_parser(name, help=text, description=text)
            if argv and argv[0] == name:  # the other stages' modules are never imported
                importlib.import_module(module).add_arguments(command)
        arguments = parser.parse_args(argv)
        arguments.run(arguments)
    except LanitError as error:
        return _end(argv, str(error))
    except Exception as error:
        sentence = explain(error)
        if sentence is None:  # of the program: its trace tells where
            raise
        sys.unraisablehook = lambda _: None  # libraries that tidy up at the end fail for the same reason
        return _end(argv, sentence)
    return 0


def _end(argv: list[str], sentence: str) -> int:
    print(f"lanit {argv[0]}: error: {sentence}", file=sys.stderr)
    return 2
