# Cosines against a threshold: multi-hot pseudo labels, and how good they are.


rule label:
    input:
        texts=get_texts,
        embeddings=get_embeddings,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        train=results("{dataset}/labels/{labeller}-n{n}/train.parquet"),
        test=results("{dataset}/labels/{labeller}-n{n}/test.parquet"),
        texts=results("{dataset}/labels/{labeller}-n{n}/texts.safetensors"),
        quality=results("{dataset}/labels/{labeller}-n{n}/quality.json"),
    params:
        options=lambda wildcards: as_json(
            labeller=config["labellers"][wildcards.labeller], domains=get_domains(wildcards)
        ),
        folder=subpath(output.quality, parent=True),
    log:
        results("logs/label/{dataset}/{labeller}-n{n}.log"),
    conda:
        "../../envs/lanit.yaml"
    # The labels that a method waits for come first.
    priority: lambda wildcards: 70 if wildcards.labeller == config["labeller"] else 10
    message:
        "{wildcards.dataset}: pseudo labels for N = {wildcards.n}, {wildcards.labeller}"
    shell:
        "python -m lanit label --options {params.options:q} --texts {input.texts:q} --embeddings {input.embeddings:q} "
        "--manifest {input.manifest:q} --output {params.folder:q} &> {log:q}"
