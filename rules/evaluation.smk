# MTEB by groups of tasks (imports cost seconds, so a job takes many tasks) and general capability.


rule tasks:
    input:
        test=f"{ROOT}/data/split/{PLAN.study.data.supervised}/test.jsonl",
        validation=f"{ROOT}/data/split/{PLAN.study.data.supervised}/validation.jsonl",
    output:
        f"{ROOT}/data/tasks.json",
    log:
        f"{ROOT}/logs/tasks.log",
    benchmark:
        f"{ROOT}/benchmarks/tasks.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["tasks"].threads
    resources:
        mem_mb=mem_mb("tasks"),
        runtime=runtime("tasks"),
        gpu=RESOURCES["tasks"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_tasks(),
    shell:
        "python -m grace.gpus {resources.gpu} --"
        " python -m grace.evaluation.tasks --spec {params.spec:q} --threads {threads}"
        " --test {input.test:q} --validation {input.validation:q} --out {output:q} > {log:q} 2>&1"


rule evaluate:
    input:
        model=lambda wildcards: PLAN.model_ready(
            wildcards.backbone, wildcards.run, wildcards.seed
        ),
        data=PLAN.task_data(),
        pairs=lambda wildcards: PLAN.pair_rows(wildcards.run, wildcards.group),
        standard=lambda wildcards: PLAN.standard_rows(wildcards.run),
        before=lambda wildcards: PLAN.evaluated_before(
            wildcards.backbone, wildcards.run, wildcards.seed, wildcards.group
        ),
    output:
        f"{ROOT}/mteb/{{backbone}}/{{run}}/seed{{seed}}/{{group}}.json",
    log:
        f"{ROOT}/logs/evaluate/{{backbone}}/{{run}}/seed{{seed}}/{{group}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate/{{backbone}}/{{run}}/seed{{seed}}/{{group}}.tsv"
    conda:
        GPU_ENV
    threads: RESOURCES["evaluate"].threads
    resources:
        mem_mb=mem_mb("evaluate"),
        runtime=runtime("evaluate"),
        gpu=RESOURCES["evaluate"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_evaluate(
            wildcards.backbone, wildcards.run, wildcards.seed, wildcards.group
        ),
        model=lambda wildcards: PLAN.model(
            wildcards.backbone, wildcards.run, wildcards.seed
        ),
        store=STORE,
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.evaluation.evaluate"
        " --spec {params.spec:q} --threads {threads}"
        " --model {params.model:q} --data {input.data:q} --pairs {input.pairs:q} --standard {input.standard:q}"
        " --store {params.store:q} --out {output:q} > {log:q} 2>&1"


rule general:
    input:
        model=lambda wildcards: PLAN.model_ready(
            wildcards.backbone, wildcards.run, wildcards.seed
        ),
        data=PLAN.task_data(),
        texts=PLAN.held_out(),
    output:
        f"{ROOT}/general/{{backbone}}/{{run}}/seed{{seed}}.json",
    log:
        f"{ROOT}/logs/general/{{backbone}}/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/general/{{backbone}}/{{run}}/seed{{seed}}.tsv"
    wildcard_constraints:
        run=one_of(["backbone", *PLAN.study.runs]),
    conda:
        GPU_ENV
    threads: RESOURCES["general"].threads
    resources:
        mem_mb=mem_mb("general"),
        runtime=runtime("general"),
        gpu=RESOURCES["general"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_general(
            wildcards.backbone, wildcards.run, wildcards.seed
        ),
        model=lambda wildcards: PLAN.model(
            wildcards.backbone, wildcards.run, wildcards.seed
        ),
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.evaluation.general"
        " --spec {params.spec:q} --threads {threads}"
        " --model {params.model:q} --data {input.data:q} --texts {input.texts:q} --out {output:q} > {log:q} 2>&1"


# Time per text. Alone on this machine, or the other jobs would be in the figure; on a cluster a job has its own cores.
rule latency:
    input:
        backbone=lambda wildcards: f"{PLAN.backbone_folder(wildcards.backbone)}/manifest.json",
        model=lambda wildcards: PLAN.model_ready(
            wildcards.backbone, PLAN.study.latency.run, PLAN.study.seeds[0]
        ),
        encoder=[f"{folder}/manifest.json" for folder in PLAN.timed_encoder()],
        texts=PLAN.test_rows(),
    output:
        f"{ROOT}/latency/{{backbone}}.json",
    log:
        f"{ROOT}/logs/latency/{{backbone}}.log",
    benchmark:
        f"{ROOT}/benchmarks/latency/{{backbone}}.tsv"
    conda:
        GPU_ENV
    threads: workflow.resource_settings.cores or RESOURCES["latency"].threads
    resources:
        mem_mb=mem_mb("latency"),
        runtime=runtime("latency"),
        gpu=RESOURCES["latency"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_latency(),
        threads=RESOURCES["latency"].threads,
        backbone=lambda wildcards: PLAN.backbone_folder(wildcards.backbone),
        model=lambda wildcards: PLAN.model(
            wildcards.backbone, PLAN.study.latency.run, PLAN.study.seeds[0]
        ),
        encoder=PLAN.timed_encoder(),
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.evaluation.latency"
        " --spec {params.spec:q} --threads {params.threads} --backbone {params.backbone:q}"
        " --model {params.model:q} --encoder {params.encoder:q} --texts {input.texts:q}"
        " --out {output:q} > {log:q} 2>&1"


# Rationales of a few held-out texts, before, in and after training.
rule cases:
    input:
        models=lambda wildcards: [
            ready for _, ready in PLAN.case_models(wildcards.backbone)
        ],
        texts=PLAN.test_rows(),
    output:
        f"{ROOT}/cases/{{backbone}}.json",
    log:
        f"{ROOT}/logs/cases/{{backbone}}.log",
    benchmark:
        f"{ROOT}/benchmarks/cases/{{backbone}}.tsv"
    conda:
        GPU_ENV
    threads: RESOURCES["cases"].threads
    resources:
        mem_mb=mem_mb("cases"),
        runtime=runtime("cases"),
        gpu=RESOURCES["cases"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_cases(wildcards.backbone),
        models=lambda wildcards: [
            folder for folder, _ in PLAN.case_models(wildcards.backbone)
        ],
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.evaluation.cases"
        " --spec {params.spec:q} --threads {threads} --models {params.models:q} --texts {input.texts:q}"
        " --out {output:q} > {log:q} 2>&1"
