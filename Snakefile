# A sweep: every dataset x method x N x seed of the configuration, from images to comparison tables.
#
#     snakemake --cores all                                             # config.yaml: the demo
#     snakemake --cores all --configfile workflow/configs/smoke.yaml    # laid over config.yaml
#     snakemake --workflow-profile profiles/slurm                       # every job through SLURM
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


configfile: Path(workflow.basedir) / "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/shard.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/compare.smk"


# What takes a second, and what writes into one database: not worth a job on a cluster.
localrules:
    all,
    track,


rule all:
    default_target: True
    input:
        get_sweep,
        rules.compare.output,
        rules.track.output,


onsuccess:
    print(describe_results([*get_sweep(), *rules.compare.output, *rules.track.output]))


onerror:
    if not list_missing([*get_sweep(), *rules.compare.output]):  # all but MLflow
        print(describe_results([]))
