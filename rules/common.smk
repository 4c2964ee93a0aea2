# From config.yaml to the plan of a study. Everything here is known before the first job.
import hashlib
import json
import os
import re
import shlex
import sys
import time

sys.path.insert(0, workflow.basedir)

from grace.config.studies import with_studies
from grace.config.section import UserError, packed
from grace.config.plan import Plan

try:
    PLAN = Plan(with_studies(config))
except UserError as error:
    sys.exit(f"error: {error}")

ROOT = PLAN.root
STARTED = time.time()
RESOURCES = PLAN.study.resources
with open(f"{workflow.basedir}/grace/paper/printed.csv", "rb") as _handle:
    PRINTED = hashlib.sha256(_handle.read()).hexdigest()  # what the paper prints
STORE = f"{ROOT}/store"  # rationales and embeddings, by content

# A conda environment holds the packages but not the project.
shell.prefix(
    "set -euo pipefail; export PYTHONPATH="
    + shlex.quote(workflow.basedir)
    + "${{PYTHONPATH:+:$PYTHONPATH}}; "  # braces doubled: the prefix is formatted too
)


onstart:
    # A group adds up the GPUs of its jobs, and each of them then sees all.
    for name in workflow.group_settings.overwrite_groups:
        if name in RESOURCES and RESOURCES[name].gpu:
            sys.exit(f"error: --groups: {name} asks for GPUs, which a group would add up; leave it out.")
    if PLAN.study.minutes:
        print(
            f"{PLAN.study.title}: {PLAN.study.minutes} minutes on 2 cores, {workflow.cores} are used.",
            file=sys.stderr,
        )


# Jobs on GPUs share an environment, with vLLM where it is an engine of the study.
GPU_ENV = f"../envs/{'vllm' if PLAN.runs.vllm() else 'grace'}.yaml"


def one_of(names):
    """Regular expression of exactly these names; of none, one that never matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    source=one_of(PLAN.runs.sources),
    data="supervised|unsupervised",
    backbone=one_of(PLAN.runs.backbones),
    run=one_of(PLAN.study.runs),
    seed=r"\d+",
    group=one_of(PLAN.study.evaluation.groups),
    table=one_of(PLAN.study.tables),
    figure=one_of(PLAN.study.figures),


def stage(module, options, start="python", threads="{threads}", said="> {log:q} 2>&1"):
    """The command of a job: it claims its GPUs, then starts a module with its spec; what it says goes to its log."""
    return (
        f"python -m grace.jobs.gpus {{resources.gpu}} -- {start} -m grace.{module}"
        f" --spec {{params.spec:q}} --threads {threads} {options} {said}"
    )


def asked(rule_name, **other):
    """What a rule asks of the scheduler beside threads; a retried job gets more memory and time."""
    entry = RESOURCES[rule_name]
    return {
        "mem_mb": lambda wildcards, attempt: entry.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: entry.runtime * attempt,
        "gpu": entry.gpu,
        **other,
    }


FORMS = {  # what an exhibit is written as
    "table": ("csv", "md", "tex", "html", "json"),
    "figure": ("csv", "svg", "png", "json"),
}


def exhibits(form, *names):
    """Paths of these tables or figures, or of all that are made unasked."""
    return expand(
        f"{ROOT}/{form}s/{{name}}.{{ending}}",
        name=names or PLAN.wanted(form),
        ending=FORMS[form],
    )


def results(paths):
    """Result files that a table or figure waits for; with `partial` none, it takes what is there."""
    return [] if PLAN.runs.partial else paths


def found(paths):
    """With `partial`, a parameter that changes when one of these files comes or changes."""
    if not PLAN.runs.partial:
        return None
    return {path: os.path.getmtime(path) for path in paths if os.path.exists(path)}


def keep_steps(wildcards):
    """Steps whose weights a training keeps. Those that it has kept stay, so that asking for fewer retrains nothing."""
    wanted = PLAN.runs.keep_steps(wildcards.run)
    path = f"{PLAN.runs.model(wildcards.backbone, wildcards.run, wildcards.seed)}/manifest.json"
    if not os.path.exists(path):
        return wanted
    with open(path) as handle:
        kept = json.load(handle)["settings"].get("keep_steps", [])
    return kept if set(wanted) <= set(kept) else wanted
