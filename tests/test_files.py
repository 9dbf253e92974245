"""Files between the stages: whole or not there, and the same content as the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lanit.files import read_tensors, whole, write_tensors, write_whole


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_tensors_and_metadata_come_back_and_give_the_same_bytes_in_another_process(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3).T, "a": np.array([1, 2])}
    metadata = {"z": ["é"], "y": {"k": 1}, "x": None}
    write_tensors(tmp_path / "one", arrays, metadata)
    found, told = read_tensors(tmp_path / "one", ("a", "z"), "a test")
    assert told == metadata and all(np.array_equal(found[name], arrays[name]) for name in arrays)
    code = (
        "import numpy as np; from lanit.files import write_tensors; "
        "write_tensors('two', {'a': np.array([1, 2]), 'b': np.arange(6.0).reshape(2, 3).T}, "
        "{'x': None, 'y': {'k': 1}, 'z': ['é']})"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
