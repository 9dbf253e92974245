# The MLflow store, made once before anything logs into it, and everything that is read at the end.


rule track:
    output:
        results("mlflow.json"),
    params:
        options=as_json(uri=STORE, sweep=config["sweep"], datasets=config["datasets"]),
    log:
        results("logs/track.log"),
    conda:
        "../../envs/lanit.yaml"
    priority: 100
    message:
        "Make the MLflow store"
    shell:
        "python -m lanit track --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule compare:
    input:
        scores=lambda wildcards: get_runs("scores.json"),
        pictures=lambda wildcards: get_runs("pictures.npz"),
        quality=get_qualities,
        store=ancient(results("mlflow.json")),
    output:
        tables=report(
            expand(results("tables/comparison.{ending}"), ending=["csv", "md", "tex"]),
            caption="../report/comparison.rst",
            category="Tables",
        ),
        report=results("report.html"),
    params:
        options=as_json(sweep=config["sweep"]),
        folder=subpath(output.report, parent=True),
    log:
        results("logs/compare.log"),
    conda:
        "../../envs/lanit.yaml"
    message:
        "Compare: tables, plots, pictures and report"
    shell:
        "python -m lanit compare --options {params.options:q} --scores {input.scores:q} --quality {input.quality:q} "
        "--pictures {input.pictures:q} --output {params.folder:q} --track {input.store:q} 2>&1 | tee {log:q}"
