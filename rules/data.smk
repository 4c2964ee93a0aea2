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
        mem_mb=mem_mb("source"),
        runtime=runtime("source"),
        gpu=RESOURCES["source"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_source(wildcards.source),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.data.source --spec {params.spec:q} --threads {threads}"
        " --out {output.out:q} --card {output.card:q} > {log:q} 2>&1"


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
        mem_mb=mem_mb("pairs"),
        runtime=runtime("pairs"),
        gpu=RESOURCES["pairs"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_pairs(wildcards.source),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.data.pairs --spec {params.spec:q} --threads {threads}"
        " --source {input:q} --out {output.out:q} --card {output.card:q} > {log:q} 2>&1"


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
        mem_mb=mem_mb("split"),
        runtime=runtime("split"),
        gpu=RESOURCES["split"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_split(),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.data.split --spec {params.spec:q} --threads {threads} --pairs {input:q}"
        " --train {output.train:q} --validation {output.validation:q} --test {output.test:q}"
        " --report {output.report:q} > {log:q} 2>&1"


rule triples:
    input:
        train=f"{ROOT}/data/split/{{source}}/train.jsonl",
        encoder=[f"{folder}/manifest.json" for folder in PLAN.mining_encoder()],
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
        mem_mb=mem_mb("triples"),
        runtime=runtime("triples"),
        gpu=RESOURCES["triples"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_triples(),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.data.triples --spec {params.spec:q} --threads {threads}"
        " --train {input.train:q} --out {output.out:q} --report {output.report:q} > {log:q} 2>&1"


rule lengths:
    input:
        rows=lambda wildcards: PLAN.training_rows(wildcards.data),
        backbone=lambda wildcards: f"{PLAN.backbone_folder(wildcards.backbone)}/manifest.json",
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
        mem_mb=mem_mb("lengths"),
        runtime=runtime("lengths"),
        gpu=RESOURCES["lengths"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_lengths(wildcards.data),
        tokenizer=lambda wildcards: PLAN.backbone_folder(wildcards.backbone),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.data.lengths --spec {params.spec:q} --threads {threads} --tokenizer {params.tokenizer:q}"
        " --rows {input.rows:q} --out {output.out:q} --report {output.report:q} > {log:q} 2>&1"
