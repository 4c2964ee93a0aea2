# Sources -> pairs -> splits -> triples -> what fits a backbone's prompt.


rule source:
    output:
        out=f"{ROOT}/data/raw/{{source}}.jsonl",
        card=f"{ROOT}/data/raw/{{source}}.card.json",
    log:
        f"{ROOT}/logs/source/{{source}}.log",
    benchmark:
        f"{ROOT}/benchmarks/source/{{source}}.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["source"].threads
    resources:
        **asked("source"),
    params:
        spec=lambda wildcards: PLAN.spec_source(wildcards.source),
    shell:
        stage("data.source", "--out {output.out:q} --card {output.card:q}")


rule pairs:
    input:
        f"{ROOT}/data/raw/{{source}}.jsonl",
    output:
        out=f"{ROOT}/data/pairs/{{source}}.jsonl",
        card=f"{ROOT}/data/pairs/{{source}}.card.json",
    log:
        f"{ROOT}/logs/pairs/{{source}}.log",
    benchmark:
        f"{ROOT}/benchmarks/pairs/{{source}}.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["pairs"].threads
    resources:
        **asked("pairs"),
    params:
        spec=lambda wildcards: PLAN.spec_pairs(wildcards.source),
    shell:
        stage(
            "data.pairs",
            "--source {input:q} --out {output.out:q} --card {output.card:q}",
        )


rule split:
    input:
        f"{ROOT}/data/pairs/{{source}}.jsonl",
    output:
        train=f"{ROOT}/data/split/{{source}}/train.jsonl",
        validation=f"{ROOT}/data/split/{{source}}/validation.jsonl",
        test=f"{ROOT}/data/split/{{source}}/test.jsonl",
        report=f"{ROOT}/data/split/{{source}}/report.json",
    log:
        f"{ROOT}/logs/split/{{source}}.log",
    benchmark:
        f"{ROOT}/benchmarks/split/{{source}}.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["split"].threads
    resources:
        **asked("split"),
    params:
        spec=lambda wildcards: PLAN.spec_split(),
    shell:
        stage(
            "data.split",
            "--pairs {input:q} --train {output.train:q} --validation {output.validation:q} --test {output.test:q} --report {output.report:q}",
        )


rule triples:
    input:
        train=f"{ROOT}/data/split/{{source}}/train.jsonl",
        encoder=[f"{folder}/manifest.json" for folder in PLAN.runs.mining_encoder()],
    output:
        out=f"{ROOT}/data/triples/{{source}}.jsonl",
        report=f"{ROOT}/data/triples/{{source}}.report.json",
    log:
        f"{ROOT}/logs/triples/{{source}}.log",
    benchmark:
        f"{ROOT}/benchmarks/triples/{{source}}.tsv"
    priority: 1
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["triples"].threads
    resources:
        **asked("triples"),
    params:
        spec=lambda wildcards: PLAN.spec_triples(),
    shell:
        stage(
            "data.triples",
            "--train {input.train:q} --out {output.out:q} --report {output.report:q}",
        )


rule lengths:
    input:
        rows=lambda wildcards: PLAN.runs.training_rows(wildcards.data),
        backbone=lambda wildcards: f"{PLAN.runs.backbone_folder(wildcards.backbone)}/manifest.json",
    output:
        out=f"{ROOT}/data/rows/{{backbone}}/{{data}}.jsonl",
        report=f"{ROOT}/data/rows/{{backbone}}/{{data}}.report.json",
    log:
        f"{ROOT}/logs/lengths/{{backbone}}/{{data}}.log",
    benchmark:
        f"{ROOT}/benchmarks/lengths/{{backbone}}/{{data}}.tsv"
    priority: 1
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["lengths"].threads
    resources:
        **asked("lengths"),
    params:
        spec=lambda wildcards: PLAN.spec_lengths(wildcards.data),
        tokenizer=lambda wildcards: PLAN.runs.backbone_folder(wildcards.backbone),
    shell:
        stage(
            "data.lengths",
            "--tokenizer {params.tokenizer:q} --rows {input.rows:q} --out {output.out:q} --report {output.report:q}",
        )
