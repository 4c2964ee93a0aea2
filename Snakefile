# GRACE from data to tables. config.yaml says what is built, `grace.study` turns it into runs and paths.
#
#   snakemake --cores all                          the embedded demo, no GPU, no download
#   snakemake --cores all --config study=paper     the paper
#   snakemake table1                               one table and what it needs
#   snakemake --until train                        the models only
#   snakemake -n                                   what would be done
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        tables(),
        f"{ROOT}/report.html",


onsuccess:
    made = [f"{ROOT}/plan.md", *tables(form="md"), f"{ROOT}/report.html"]
    print("\n" + "\n".join(path for path in made if os.path.exists(path)) + "\n")
