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
        **asked("tasks"),
    params:
        spec=lambda wildcards: PLAN.spec_tasks(),
    shell:
        stage(
            "evaluation.tasks",
            "--test {input.test:q} --validation {input.validation:q} --out {output:q}",
        )


# A job for each run, but for those that are evaluated together.
for _name, _runs in {"evaluate": [], **PLAN.evaluated_together}.items():

    rule:
        name:
            _name
        input:
            model=lambda wildcards, runs=_runs: PLAN.runs.model_ready(
                wildcards.backbone, (runs or [wildcards.run])[0], wildcards.seed
            ),
            data=PLAN.runs.task_data(),
            pairs=lambda wildcards, runs=_runs: PLAN.pair_rows(runs or [wildcards.run], wildcards.group),
            standard=lambda wildcards, runs=_runs: PLAN.standard_rows(runs or [wildcards.run]),
            before=lambda wildcards, runs=_runs: PLAN.evaluated_before(
                wildcards.backbone, runs or [wildcards.run], wildcards.seed, wildcards.group
            ),
        output:
            [f"{ROOT}/mteb/{{backbone}}/{run}/seed{{seed}}/{{group}}.json" for run in _runs or ["{run}"]],
        log:
            f"{ROOT}/logs/evaluate/{{backbone}}/{_name if _runs else '{run}'}/seed{{seed}}/{{group}}.log",
        benchmark:
            f"{ROOT}/benchmarks/evaluate/{{backbone}}/{_name if _runs else '{run}'}/seed{{seed}}/{{group}}.tsv"
        wildcard_constraints:
            run=one_of(PLAN.evaluated_alone()),
        conda:
            GPU_ENV
        threads: RESOURCES["evaluate"].threads
        resources:
            **asked("evaluate"),
        params:
            spec=lambda wildcards, runs=_runs: packed(
                PLAN.spec_evaluations(wildcards.backbone, runs or [wildcards.run], wildcards.seed, wildcards.group)
            ),
            model=lambda wildcards, runs=_runs: PLAN.runs.model(
                wildcards.backbone, (runs or [wildcards.run])[0], wildcards.seed
            ),
            store=STORE,
        shell:
            stage(
                "evaluation.evaluate",
                "--model {params.model:q} --data {input.data:q} --pairs {input.pairs:q} --standard {input.standard:q} --store {params.store:q} --out {output:q}",
            )


rule general:
    input:
        model=lambda wildcards: PLAN.runs.model_ready(wildcards.backbone, wildcards.run, wildcards.seed),
        data=PLAN.runs.task_data(),
        texts=PLAN.runs.held_out(),
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
        **asked("general"),
    params:
        spec=lambda wildcards: PLAN.spec_general(wildcards.backbone, wildcards.run, wildcards.seed),
        model=lambda wildcards: PLAN.runs.model(wildcards.backbone, wildcards.run, wildcards.seed),
    shell:
        stage(
            "evaluation.general",
            "--model {params.model:q} --data {input.data:q} --texts {input.texts:q} --out {output:q}",
        )


# Time per text. Alone on this machine, or the other jobs would be in the figure; on a cluster a job has its own cores.
rule latency:
    input:
        backbone=lambda wildcards: f"{PLAN.runs.backbone_folder(wildcards.backbone)}/manifest.json",
        model=lambda wildcards: PLAN.runs.model_ready(wildcards.backbone, PLAN.study.latency.run, PLAN.study.seeds[0]),
        encoder=[f"{folder}/manifest.json" for folder in PLAN.runs.timed_encoder()],
        texts=PLAN.runs.test_rows(),
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
        **asked("latency"),
    params:
        spec=lambda wildcards: PLAN.spec_latency(),
        threads=RESOURCES["latency"].threads,
        backbone=lambda wildcards: PLAN.runs.backbone_folder(wildcards.backbone),
        model=lambda wildcards: PLAN.runs.model(wildcards.backbone, PLAN.study.latency.run, PLAN.study.seeds[0]),
        encoder=PLAN.runs.timed_encoder(),
    shell:
        stage(
            "evaluation.latency",
            "--backbone {params.backbone:q} --model {params.model:q} --encoder {params.encoder:q} --texts {input.texts:q} --out {output:q}",
            threads="{params.threads}",
        )


# Rationales of a few held-out texts, before, in and after training.
rule cases:
    input:
        models=lambda wildcards: [ready for _, ready in PLAN.case_models(wildcards.backbone)],
        texts=PLAN.runs.test_rows(),
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
        **asked("cases"),
    params:
        spec=lambda wildcards: PLAN.spec_cases(wildcards.backbone),
        models=lambda wildcards: [folder for folder, _ in PLAN.case_models(wildcards.backbone)],
    shell:
        stage(
            "evaluation.cases",
            "--models {params.models:q} --texts {input.texts:q} --out {output:q}",
        )
