"""Another system in a sweep, run for real: pairs out, its translations in, scores; and what makes them anew."""

import csv
import json
import re
import shutil

SMALL = {
    "dataset": {"faces": {
        "source": {"splits": {
            "train": {"images": 20}, "val": {"images": 20}, "test": {"images": 240}, "pretrain": {"images": 200},
        }},
        "shards": {"train": 1, "pretrain": 1},
    }},
    "features": {"faces": {"train": {"epochs": 2}}},
    "evaluate": {"pairs": 2},
}  # fmt: skip
SCORES = "results/faces/external/copier/scores.json"


def test_another_system_is_scored_by_rules_and_again_when_a_picture_is_replaced(snakemake, tmp_path):
    result = snakemake("results/faces/pairs", "--cores", "2", overlays=[SMALL], timeout=600)
    assert result.returncode == 0, result.stdout
    asked, made = tmp_path / "results" / "faces" / "pairs", tmp_path / "made"
    made.mkdir()
    with open(asked / "pairs.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        shutil.copy(asked / "references" / f"{row['reference']}.png", made / row["file"])

    overlays = [SMALL, {"external": {"copier": {"title": "Copier", "dataset": "faces", "images": "made"}}}]
    result = snakemake(SCORES, "--cores", "2", overlays=overlays, timeout=600)
    assert result.returncode == 0, result.stdout
    scores = json.loads((tmp_path / SCORES).read_text())
    assert scores["external"] == {"title": "Copier", "files": len(rows), "pairs": 180, "of": 180}
    assert all(row["n_fake"] == 18 for row in scores["per_class"].values())

    def planned() -> set[str]:
        result = snakemake(SCORES, "--dry-run", "--quiet", "rules", overlays=overlays)
        assert result.returncode == 0, result.stdout
        return set(re.findall(r"^(\w+) +1$", result.stdout, flags=re.MULTILINE))

    assert planned() == set()
    shutil.copy(asked / "sources" / f"{rows[0]['source']}.png", made / rows[0]["file"])
    assert planned() == {"read_external", "score_external"}
