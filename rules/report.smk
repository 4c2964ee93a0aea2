# The paper's tables, ours beside the printed numbers, and one page that holds them.


rule tables:
    input:
        [path for cell in PLAN.cells() for path in (*cell.mteb, cell.general)],
    output:
        page("table1"),
        page("table2"),
        page("table5"),
        expand(
            f"{ROOT}/tables/{{table}}.{{form}}",
            table=["table1", "table2", "table5"],
            form=["csv", "md"],
        ),
        f"{ROOT}/tables/tables.json",
    log:
        f"{ROOT}/logs/tables.log",
    benchmark:
        f"{ROOT}/benchmarks/tables.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["tables"].threads
    resources:
        mem_mb=mem_mb("tables"),
        runtime=runtime("tables"),
        gpu=RESOURCES["tables"].gpu,
    params:
        spec=PLAN.spec_tables(),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "python -m grace.report.tables --spec {params.spec:q} --threads {threads} --folder {params.folder:q}"
        " > {log:q} 2>&1"


rule report:
    input:
        tables(),
    output:
        f"{ROOT}/report.html",
    log:
        f"{ROOT}/logs/report.log",
    benchmark:
        f"{ROOT}/benchmarks/report.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["report"].threads
    resources:
        mem_mb=mem_mb("report"),
        runtime=runtime("report"),
        gpu=RESOURCES["report"].gpu,
    params:
        spec=PLAN.spec_page(),
        snakefile=f"{workflow.basedir}/Snakefile",
    shell:
        "python -m grace.report.report --spec {params.spec:q} --threads {threads} --snakefile {params.snakefile:q}"
        " --out {output:q} > {log:q} 2>&1"
