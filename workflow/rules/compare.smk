# Everything that is read at the end, and MLflow, which then gets what it could not take before.


rule compare:
    input:
        scores=lambda wildcards: get_runs("scores.json") + get_externals("scores.json"),
        pictures=lambda wildcards: get_runs("pictures.npz") + get_externals("pictures.npz"),
        quality=get_qualities,
        metrics=get_runs("metrics.jsonl"),
    output:
        tables=report(
            expand(results("tables/{table}.{ending}"), table=["comparison", "table1", "table2"], ending=["md", "tex"])
            + [results("tables/comparison.csv"), results("tables/labels.csv"), results("tables/labels.md")],
            caption="../report/tables.rst",
            category="Tables",
        ),
        plots=report(
            directory(results("plots")), patterns=["{name}.png"], caption="../report/plots.rst", category="Plots"
        ),
        pictures=report(
            directory(results("pictures")),
            patterns=["{name}.png"],
            caption="../report/pictures.rst",
            category="Pictures",
        ),
        report=results("report.html"),
    log:
        results("logs/compare.log"),
    conda:
        "../../envs/lanit.yaml"
    params:
        options=as_json(sweep=config["sweep"]),
        track=TRACK,  # the report says how to open the store
        # Not an input: a training leaves it only where prompts have learned, so that it is no output of its rule.
        prompts=as_argument("--prompts", get_runs_with_learned_prompts("prompts.json")),
        folder=subpath(output.report, parent=True),
    message:
        "Compare: tables, plots, pictures and report"
    shell:
        "python -m lanit compare --options {params.options:q} --scores {input.scores:q} --quality {input.quality:q} "
        "--pictures {input.pictures:q} --metrics {input.metrics:q} {params.prompts:q} --output {params.folder:q} "
        "--track {params.track:q} &> {log:q}"


# Nothing depends on the store: what is due here hides no job, and a store that cannot be reached costs no result.
rule track:
    input:
        runs=lambda wildcards: get_runs("run.json") + get_externals("run.json"),
        scores=lambda wildcards: get_runs("scores.json") + get_externals("scores.json"),
        report=rules.compare.output.report,
    output:
        results("mlflow.json"),
    log:
        results("logs/track.log"),
    conda:
        "../../envs/lanit.yaml"
    params:
        options=as_json(uri=STORE, sweep=config["sweep"], datasets=config["datasets"]),
        folders=lambda wildcards, input: [str(Path(path).parent) for path in input.runs],
        comparison=subpath(input.report, parent=True),
        lost=is_store_lost(),  # what it had is entered in a new one
    message:
        "Enter in MLflow what its store has not got yet"
    shell:
        "python -m lanit track --options {params.options:q} --runs {params.folders:q} "
        "--comparison {params.comparison:q} --output {output:q} &> {log:q}"
