"""What a study needs: trainings, rows, sources and texts, before what they cost."""

from __future__ import annotations

import math
from functools import cached_property

from grace import ablations
from grace.config import Study
from grace.exhibits import Figure, Table
from grace.report.planning.sizes import GENERAL, Field, task_sizes
from grace.runs import contrastive
from grace.section import build, merge
from grace.shown import REFERENCE
from grace.specs import PlanSpec
from grace.tasks import CATEGORY, OTHER_DOCUMENTS

FORUMS, SUMMEVAL = 12, 100  # members of CQADupstackRetrieval, documents of SummEval
EXHIBITS = ("runs", "tables", "figures", "ablations")  # no run changes them, and they are long
SAMPLING = ("engine", "direct_prompt", "sampling_temperature", "batch_size")  # of `evaluation`, with the prompt


class Needs:
    """What the tables and figures of a study need."""

    def __init__(self, spec: PlanSpec) -> None:
        self.spec, self.study = spec, spec.study
        groups, sizes = spec.study.evaluation.groups, task_sizes()
        counted = ("queries", "texts", "texts 1")
        self.items = {"SummEval": SUMMEVAL, **{f.task: f.texts for f in sizes if f.name in counted}}
        self.fetched = {name: [f for f in sizes if f.task in names] for name, names in groups.items()}
        self.sizes = {name: list(map(self._sampled, fields)) for name, fields in self.fetched.items()}
        tasks = {name for names in groups.values() for name in names}
        self.unsized = sorted(tasks - {f.task for f in sizes}) + sorted({*spec.study.general.tasks} - {*GENERAL})

    def _sampled(self, field: Field) -> Field:
        """What a draw (`evaluation.sample`) leaves of a field, as if one document were judged for each query."""
        count = self.study.evaluation.sample.get(field.task)
        if count is None or field.name == "training texts":
            return field
        count *= FORUMS if field.task == "CQADupstackRetrieval" else 1
        if field.name == "documents" and CATEGORY[field.task] == "Retrieval":
            texts = count * (1 + OTHER_DOCUMENTS)
        else:
            texts = math.ceil(field.texts * count / self.items[field.task])
        texts = min(texts, field.texts)
        return field._replace(texts=texts, distinct=min(texts, field.distinct), same_as="")

    @property
    def processor(self) -> bool:
        """Whether a processor does the jobs, one by one."""
        return self.study.hardware.gpus == 0

    # ---- runs ---------------------------------------------------------------------------

    @cached_property
    def sections(self) -> dict[str, Study]:
        """The study as each run sees it."""
        whole = {**self.study.model_dump(), **{key: {} for key in EXHIBITS}}
        changed = {run: entry.settings for run, entry in self.study.runs.items() if entry.settings}
        own = {run: build(Study, merge(whole, settings), "") for run, settings in changed.items()}
        return {run: own.get(run, self.study) for run in ("backbone", *self.study.runs)}

    @cached_property
    def evaluated(self) -> dict[str, dict[str, list[str]]]:
        """Backbone -> run -> groups of tasks: what is read, and the runs whose rationales are pooled anew for it."""
        found = {backbone: dict(runs) for backbone, runs in self.spec.evaluated.items()}
        for backbone, runs in self.spec.evaluated.items():
            for run, groups in runs.items():
                if before := self.rationales_of(run):
                    found[backbone][before] = list(dict.fromkeys([*found[backbone].get(before, []), *groups]))
        return found

    @cached_property
    def used(self) -> list[str]:
        """Runs with results."""
        read = {run for part in (self.evaluated, self.spec.general) for runs in part.values() for run in runs}
        return [run for run in self.study.runs if run in read]

    @cached_property
    def points(self) -> dict[str, dict[str, str]]:
        """Ablation -> its runs that are not another run themselves -> the run that each varies; of modes also the runs
        that its tables and figures compare and no other has."""
        found: dict[str, dict[str, str]] = {}
        exhibits: list[Table | Figure] = [*self.study.tables.values(), *self.study.figures.values()]
        for name, entry in self.study.ablations.items():
            every = {base + suffix: base for base in entry.runs for suffix, _, _ in ablations.points(name, entry)}
            rows = [run for one in exhibits if name in one.ablations for run in one.rows]
            compared = dict.fromkeys([*entry.runs, *rows] if entry.modes else [])
            extra = {run: run for run in compared if run in self.study.runs and self.study.runs[run].extra}
            found[name] = {run: base for run, base in (extra | every).items() if run in self.study.runs}
        return found

    def seeds(self, backbone: str, kind: str, *job: str) -> int:
        """Seeds of a result: of `general` by its run, of `mteb` by its run and group."""
        return self.spec.seeds.get(backbone, {}).get("/".join([kind, *job]), len(self.study.seeds))

    def owner(self, run: str) -> str:
        """The run whose training makes this one's model."""
        return self.study.runs[run].model or run

    def kept_steps(self, run: str) -> list[int]:
        """Checkpoints of a training that are kept as models, asked for now or not."""
        return sorted({at.step for at in self.study.runs.values() if at.step and at.model == run})

    def backbones_of(self, run: str) -> list[str]:
        entry = self.study.runs[run]
        planned = [name for name in self.spec.backbones if not (entry.trained and name in self.study.untrained)]
        return [name for name in planned if name in (entry.backbones or [])] or planned

    def rationales_of(self, run: str) -> str | None:
        """The run whose rationales this one pools anew: the same model and sampling, no longer a rationale."""
        entry = self.study.runs[run]
        base = next((runs[run] for runs in self.points.values() if runs.get(run, run) != run), None)
        if entry.step or not entry.rationales:
            return None
        if entry.method == "adapter":  # writes what the untrained run writes
            base = REFERENCE if REFERENCE in self.study.runs else None
        elif base is None and not entry.trained and run != REFERENCE and REFERENCE in self.study.runs:
            base = REFERENCE
        elif base is None or (entry.trained and entry.model != base) or not self.study.runs[base].rationales:
            return None
        if base is None:
            return None
        ours, theirs = self.sections[run], self.sections[base]
        same = all(getattr(ours.evaluation, key) == getattr(theirs.evaluation, key) for key in SAMPLING)
        shorter = ours.evaluation.max_new_tokens <= theirs.evaluation.max_new_tokens
        return base if same and shorter and ours.prompt == theirs.prompt else None

    # ---- trainings and their rows -------------------------------------------------------

    @cached_property
    def trained(self) -> dict[tuple[str, str], int]:
        """(backbone, run) of each training -> its number of seeds: all, or the first for rationales and times."""
        spec = self.spec
        found: dict[tuple[str, str], int] = {}
        for backbone in spec.backbones:
            seeds = dict.fromkeys(self.case_runs if backbone in spec.shown else [], 1)
            seeds |= {self.study.latency.run: 1} if backbone in spec.timed else {}
            for run in spec.general.get(backbone, []):
                seeds[run] = max(seeds.get(run, 0), self.seeds(backbone, "general", run))
            for run, groups in self.evaluated.get(backbone, {}).items():
                seeds[run] = max([seeds.get(run, 0), *(self.seeds(backbone, "mteb", run, group) for group in groups)])
            for run in self.study.runs:
                if run in seeds and self.study.runs[run].trained and backbone in self.backbones_of(run):
                    key = backbone, self.owner(run)
                    found[key] = max(seeds[run], found.get(key, 0))
        return found

    @cached_property
    def learnt_from(self) -> list[tuple[str, str]]:
        """(backbone, kind of data) of the rationales that the frozen backbone writes for trainings."""
        found = [(backbone, str(self.study.runs[run].data)) for backbone, run in self.trained if self.reads(run)]
        return list(dict.fromkeys(found))

    def reads(self, run: str) -> bool:
        """Whether a training learns from rationales that are written before it starts."""
        method = self.study.runs[run].method
        return method in ("adapter", "kl_fence") and contrastive(self.sections[run], method).rationales

    def rationale_rows(self, data: str) -> int | None:
        """Rows whose rationales are written once for all trainings that read them; None: all."""
        runs = [run for run, at in self.study.runs.items() if at.data == data and self.reads(run)]
        wanted = [contrastive(self.sections[run], self.study.runs[run].method).rows for run in runs]
        return None if None in wanted else max((rows for rows in wanted if rows), default=None)

    @property
    def case_runs(self) -> list[str]:
        """Runs whose trained models show rationales."""
        cases = self.study.cases
        return [run for run in (cases.progress, *cases.also) if run in self.study.runs]

    @cached_property
    def read(self) -> list[tuple[str, str]]:
        """(backbone, kind of data) of the rows that are read in training."""
        return list(dict.fromkeys((backbone, str(self.study.runs[run].data)) for backbone, run in self.trained))

    @cached_property
    def kinds(self) -> list[str]:
        found = {kind for _, kind in self.read}
        return [kind for kind in ("supervised", "unsupervised") if kind in found]

    def source(self, kind: str) -> str:
        return str(getattr(self.study.data, kind))

    @cached_property
    def sources(self) -> list[str]:
        """Sources that are read: of trainings, and of what is made from or looked at in held-out text."""
        spec = self.spec
        held_out = [
            spec.own_tasks, spec.shown, spec.timed, any(spec.general.values()) and not spec.own_tasks,
            any(backbone.kind == "trained" for backbone in spec.backbones.values()),
            any(self.pairs(run, group) is not None for runs in self.evaluated.values()
                for run, groups in runs.items() for group in groups),
        ]  # fmt: skip
        kinds = {*self.kinds, *(["supervised"] if any(held_out) else [])}
        return sorted({self.source(kind) for kind in kinds})

    # ---- evaluation ---------------------------------------------------------------------

    def groups(self, backbone: str, run: str) -> list[str]:
        """Groups of tasks that a run is evaluated on, or would be."""
        at = self.study.evaluation
        wanted = self.evaluated.get(backbone, {}).get(run)
        return wanted or (at.subset if self.study.runs[run].ablation else list(at.groups))

    def encodings(self, backbone: str, run: str, group: str) -> int:
        """How often a run's texts are encoded over the seeds: once where neither model nor sampling has one."""
        differ = self.study.runs[run].trained or self.sampled(run)
        return self.seeds(backbone, "mteb", run, group) if differ else 1

    def sampled(self, run: str) -> bool:
        """Whether each seed writes rationales of its own."""
        return self.study.runs[run].rationales and self.sections[run].evaluation.sampling_temperature > 0

    def fields(self, group: str, groups: list[str], sizes: dict[str, list[Field]] | None = None) -> list[Field]:
        """What a group encodes, without texts that another task of `groups` leaves in the store.

        Args:
            sizes: `fetched` for whole tasks; otherwise with what is drawn of them.
        """
        tasks = {name for one in groups for name in self.study.evaluation.groups[one]}
        return [field for field in (sizes or self.sizes)[group] if field.same_as not in tasks]

    def pairs(self, run: str, group: str) -> int | None:
        """Held-out pairs whose geometry is measured with this group; None: in another group, or not of this run."""
        at = self.study.evaluation
        here = group == (at.subset or list(at.groups))[0] and self.study.runs[run].measured
        return self.sections[run].evaluation.pairs if here else None
