"""A validated study: its backbones, its runs with those of its ablations, and the paths of their results."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, cast

from grace.config import specs, tasks
from grace.config.schema import (
    AT_ONCE,
    Ablation,
    Backbone,
    Contrastive,
    Encoder,
    Figure,
    Run,
    Scalar,
    Source,
    Study,
    Table,
)
from grace.config.section import UserError, build, hint, merge
from grace.config.studies import check_keys, check_mapping, merged_study, switch, with_nulls

# Sections that a run may change with `settings`.
RUN_SECTIONS = "prompt pooling generation reward grace cl simcse adapter kl_fence rounds offline evaluation".split()
MEMORY_ONLY = {
    "generation": "batch_size",
    "grace": "rollouts_per_forward",
    "offline": "rows_per_forward",
    "evaluation": "batch_size",
}
RULES = (
    "source pairs split triples lengths tasks backbone rationales train evaluate general latency cases tables report"
).split()
TARGETS = [*RULES, *"all audit claims download encoder evaluations figures paper_items plan".split()]


class Result(NamedTuple):
    """What a result file is of: in `mteb` a run, a seed and a group of tasks; in `general` a run and a seed; in the
    others, `latency` and `cases`, a backbone."""

    kind: str
    backbone: str
    run: str = ""
    seed: int = 0
    group: str = ""


class Runs:
    """A validated study.

    Args:
        config: the parsed config.yaml with the command line's values merged in.

    Raises:
        UserError: one sentence that names the key.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        config = with_nulls(config)
        check_keys(config)
        self.name = str(config["study"])
        if self.name not in config["studies"]:
            raise UserError(f"config: study: unknown study {self.name!r}{hint(self.name, config['studies'])}.")
        self.root = f"results/{self.name}"
        self.ablations_wanted, self.partial = switch(config, "ablations"), switch(config, "partial")
        self.tradeoff_wanted = switch(config, "tradeoff")

        self.preset = str(config["preset"])
        if self.preset not in config["presets"]:
            raise UserError(f"config: preset: unknown preset {self.preset!r}{hint(self.preset, config['presets'])}.")
        merged = merged_study(config, self.name)
        for key in ("seeds", "backbones"):
            if config.get(key) is not None:
                value = config[key]
                merged[key] = value if isinstance(value, list) else [value]
        for key in ("runs", "tables", "figures", "ablations"):
            check_mapping(key, merged.setdefault(key, {}))
        self.known_runs = set(merged["runs"])
        for key in ("runs", "tables", "figures", "ablations"):  # set to null, an entry is dropped
            merged[key] = {name: entry for name, entry in merged[key].items() if entry is not None}
        self.study: Study = build(Study, merged, "")
        self._raw, self.config = merged, config

        self.backbones: dict[str, Backbone] = {}
        for name in self.study.backbones:
            if name not in config["available_backbones"]:
                known_names = config["available_backbones"]
                raise UserError(f"config: backbones: unknown backbone {name!r}{hint(name, known_names)}.")
            where = f"available_backbones.{name}"
            self.backbones[name] = build(Backbone, config["available_backbones"][name], where)
        self.encoders: dict[str, Encoder] = {}
        known_encoders, mining = config["available_encoders"], self.study.data.mining.encoder
        for name in [self.study.encoder, mining if mining in known_encoders else None]:
            if name is not None and name not in known_encoders:
                raise UserError(f"config: encoder: unknown encoder {name!r}{hint(name, known_encoders)}.")
            if name is not None:
                self.encoders[name] = build(Encoder, known_encoders[name], f"available_encoders.{name}")
        self.sources: dict[str, Source] = {}
        for key in ("supervised", "unsupervised"):
            name = getattr(self.study.data, key)
            if name not in config["sources"]:
                raise UserError(f"config: data.{key}: unknown source {name!r}{hint(name, config['sources'])}.")
            self.sources[name] = build(Source, config["sources"][name], f"sources.{name}")
        if self.sources[self.study.data.supervised].form == "texts":
            raise UserError(
                "config: data.supervised: a source of texts has no positives; name one of pairs or triples."
            )
        missing = {rule for rule in RULES if rule not in self.study.resources}
        if missing:
            raise UserError(f"config: resources.{min(missing)}: this key is missing.")
        if "backbone" in self.study.runs:
            raise UserError("config: runs.backbone: this name is taken by the backbone's own folder; choose another.")
        self.points: dict[str, list[specs.Point]] = {}
        for name in self.study.ablations:
            self.points[name] = self._expand(name)
        for name, run in self.study.runs.items():
            check_methods(self, name, self.sections(name))
            # Of a run that nobody may ask for, the training itself says so.
            if run.trains and not run.extra and self.gpus(name) > self.study.resources["train"].gpu:
                raise UserError(
                    f"config: resources.train.gpu: {self.study.resources['train'].gpu} GPUs are too few for run "
                    f"{name!r}, which trains with {self.gpus(name)} processes; raise it, or lower the processes."
                )
        check_exhibits(self)

    # ---- ablations ----------------------------------------------------------------------

    def _expand(self, name: str) -> list[specs.Point]:
        """The points of an ablation; their runs join the study's."""
        entry, found = self.study.ablations[name], []
        for base in entry.runs:
            if base not in self.known_runs:
                raise UserError(f"config: ablations.{name}.runs: unknown run {base!r}{hint(base, self.known_runs)}.")
            if base not in self.study.runs:  # dropped
                continue
            run = self.study.runs[base]
            if run.method == "encoder":
                raise UserError(
                    f"config: ablations.{name}.runs: run {base!r} is an encoder-only model, which does not vary; leave "
                    "it out."
                )
            if entry.steps and run.method != "grace":
                raise UserError(f"config: ablations.{name}.runs: run {base!r} is not of method 'grace'; leave it out.")
            for suffix, at, settings in points_of(name, entry):
                made = run_of(entry, base, run, at, settings)
                if isinstance(layer := at.get("layer"), int):  # of the backbones that have so many
                    deep = [one for one in self.backbones_of_run(base) if self.backbones[one].layers >= layer]
                    if not deep:
                        continue
                    made = made.model_copy(update={"backbones": deep})
                point = base + suffix
                end = self.sections(base).grace.max_steps
                if made.step and end and made.step > end:
                    raise UserError(
                        f"config: ablations.{name}.steps: {made.step} is over grace.max_steps ({end}) of run {base!r}; "
                        "leave it out."
                    )
                if made.step and made.step == end:
                    point = base
                elif known := self._known_as(base, point, made):
                    point = known
                elif point in self.study.runs:
                    raise UserError(f"config: ablations.{name}: another run is called {point!r}; change one of them.")
                else:
                    self.study.runs[point] = made
                found.append(specs.Point(ablation=name, run=point, of=base, at=at))
        return found

    def _known_as(self, base: str, point: str, run: Run) -> str | None:
        """The name of a run that is the same as a point's: the run that it varies, or one of another point."""
        meaning, varied = _meaning(self._built(point, run)), self.study.runs[base]
        if (run.step, run.rationales) == (varied.step, varied.rationales) and meaning == _meaning(self.sections(base)):
            return base
        bare = run.model_copy(update={"settings": {}})  # what the settings come to is compared instead
        for name, other in self.study.runs.items():
            alike = other.ablation and other.model_copy(update={"settings": {}}) == bare
            if alike and _meaning(self.sections(name)) == meaning:
                return name
        return None

    def ablation_backbones(self, name: str) -> list[str]:
        listed = [one for one in self.study.backbones if one in (self.study.ablations[name].backbones or [])]
        return listed or self.study.backbones

    def keep_steps(self, run: str) -> list[int]:
        """Steps of a run's training whose weights an ablation evaluates, whether or not it is asked for now."""
        return sorted({at.step for at in self.study.runs.values() if at.step and at.model == run})

    def backbones_of_run(self, run: str) -> list[str]:
        """Backbones for which a run is planned."""
        entry = self.study.runs[run]
        planned = [one for one in self.study.backbones if not (entry.trained and one in self.study.untrained)]
        return [one for one in planned if one in (entry.backbones or [])] or planned

    # ---- runs ---------------------------------------------------------------------------

    def run(self, name: str) -> Run:
        return self.study.runs[name]

    def sections(self, run: str) -> Study:
        """The study as this run sees it: its `settings` on top of the study's sections."""
        if run == "backbone" or not self.study.runs[run].settings:
            return self.study
        if run not in self._sections:
            self._sections[run] = self._built(run, self.study.runs[run])
        return self._sections[run]

    def _built(self, name: str, run: Run) -> Study:
        for section in run.settings:
            if section not in RUN_SECTIONS:
                raise UserError(f"config: runs.{name}.settings.{section}: unknown key{hint(section, RUN_SECTIONS)}.")
        try:
            return build(Study, merge(self._raw, run.settings), "")
        except UserError as error:
            raise UserError(str(error).replace("config: ", f"config: runs.{name}.settings.", 1)) from None

    @cached_property
    def _sections(self) -> dict[str, Study]:
        return {}

    def backbones_of(self, *kinds: str) -> list[str]:
        return [name for name, backbone in self.backbones.items() if backbone.kind in kinds]

    def trained_runs(self) -> list[str]:
        """Runs with a training of their own."""
        return [name for name, run in self.study.runs.items() if run.trains]

    def vllm(self) -> bool:
        """Whether a run of the study is trained or evaluated with vLLM."""
        every = [self.sections(run) for run in self.study.runs]
        return any("vllm" in (at.grace.engine, at.evaluation.engine) for at in every)

    def gpus(self, run: str) -> int:
        """GPUs of a training job: one per process, or none in a study without."""
        return self._processes(run) if self.study.resources["train"].gpu else 0

    def _processes(self, run: str) -> int:
        at = self.sections(run)
        method = self.study.runs[run].method
        if method == "best-of":
            return at.offline.processes
        return at.grace.processes if "grace" in method else contrastive(at, method).processes

    def launcher(self, run: str) -> str:
        """The command that starts a training module: one process, or one per GPU (`accelerate launch`)."""
        return "python" if self._processes(run) == 1 else "python -m grace.training.launch"

    # ---- paths --------------------------------------------------------------------------

    def model(self, backbone: str, run: str, seed: int | str) -> str:
        """Folder of the model that a run is evaluated with: its own, another run's, a checkpoint of one, the encoder,
        or the backbone's (also as run "backbone")."""
        if run != "backbone" and self.study.runs[run].method == "encoder":
            return self.encoder_folder(str(self.study.encoder))
        if run == "backbone" or not self.study.runs[run].trained:
            return self.backbone_folder(backbone)
        entry = self.study.runs[run]
        folder = f"{self.root}/models/{backbone}/{entry.model or run}/seed{seed}"
        return f"{folder}/step{entry.step}" if entry.step else folder

    def model_ready(self, backbone: str, run: str, seed: int | str) -> str:
        """The file that is there once the model is; a checkpoint is there once its training has ended."""
        entry = self.study.runs.get(run)
        folder = self.model(backbone, entry.model or run if entry else run, seed)
        return f"{folder}/manifest.json"

    def backbone_folder(self, backbone: str) -> str:
        entry = self.backbones[backbone]
        return f"{self.root}/models/{backbone}/backbone/seed{entry.seed}"

    def encoder_folder(self, encoder: str) -> str:
        return f"{self.root}/encoders/{encoder}"

    def timed_encoder(self) -> list[str]:
        """Folder of the encoder-only model of figure 4, if the study has one."""
        return [self.encoder_folder(self.study.encoder)] if self.study.encoder else []

    def mining_encoder(self) -> list[str]:
        """Folder of the model that mines negatives, if config.yaml names it among its encoders."""
        name = self.study.data.mining.encoder
        return [self.encoder_folder(name)] if name in self.encoders else []

    def general_result(self, backbone: str, run: str, seed: int) -> str:
        """Result file of the general tasks. Untrained runs are one model, so they share one, and a run that differs
        from that of its model in its mode alone writes as that one does."""
        entry = self.study.runs[run]
        if entry.model and entry.step is None and entry.settings == self.study.runs[entry.model].settings:
            run = entry.model
        owner = run if entry.trained or entry.settings else "backbone"
        return f"{self.root}/general/{backbone}/{owner}/seed{seed}.json"

    def mteb_results(self, backbone: str, run: str, seed: int, subset: bool = False) -> list[str]:
        """Result files of the MTEB tasks, of all groups or those of the subset."""
        groups = self.study.evaluation.subset if subset else self.study.evaluation.groups
        return [f"{self.root}/mteb/{backbone}/{run}/seed{seed}/{group}.json" for group in groups]

    def result_of(self, path: str) -> Result | None:
        """What a result file is of, from its path; None for any other file."""
        kind, backbone, *rest = path.removeprefix(f"{self.root}/").removesuffix(".json").split("/")
        if kind not in ("mteb", "general"):
            return Result(kind, backbone) if kind in ("latency", "cases") else None
        return Result(kind, backbone, rest[0], int(rest[1].removeprefix("seed")), *rest[2:])

    def training_rows(self, data: str) -> str:
        """File of the rows that a backbone is trained on, before its length filter."""
        if data == "supervised":
            return f"{self.root}/data/triples/{self.study.data.supervised}.jsonl"
        return f"{self.root}/data/split/{self.study.data.unsupervised}/train.jsonl"

    def task_data(self) -> list[str]:
        """The demo tasks' data, if this study has such tasks."""
        wanted = [*self.study.general.tasks, *(n for names in self.study.evaluation.groups.values() for n in names)]
        demo = {name for names in tasks.DEMO.values() for name in names.split()} | set(tasks.DEMO_GENERAL)
        return [f"{self.root}/data/tasks.json"] if demo & set(wanted) else []

    def rationales_written(self, backbone: str, data: str) -> str:
        """The file that is there once the rationales are that trainings learn from."""
        return f"{self.root}/data/rationales/{backbone}/{data}.json"

    def rationales_read(self, run: str) -> bool:
        """Whether a run's training learns from rationales of the frozen backbone."""
        method = self.study.runs[run].method
        return method in ("adapter", "kl_fence") and contrastive(self.sections(run), method).rationales

    def test_rows(self) -> str:
        """Held-out rows of the supervised source: {id, query, positive}."""
        return f"{self.root}/data/split/{self.study.data.supervised}/test.jsonl"

    def held_out(self) -> list[str]:
        """Texts on which rationales are looked at, where no demo task brings its own."""
        return [] if self.task_data() else [self.test_rows()]


def contrastive(at: Study, method: str) -> Contrastive:
    """The section of a method that trains with a contrastive loss."""
    sections = {"cl": at.cl, "simcse": at.simcse, "kl_fence": at.kl_fence}
    return sections.get(method, at.adapter)


def _meaning(study: Study) -> dict[str, Any]:
    """What a run may change, without what concerns memory alone."""
    found = {name: getattr(study, name).model_dump() for name in RUN_SECTIONS}
    for section, key in MEMORY_ONLY.items():
        del found[section][key]
    return found


def points_of(name: str, entry: Ablation) -> Iterator[tuple[str, dict[str, Scalar], dict[str, Any]]]:
    """Each point's suffix of a run's name, what is varied -> its value there, and its settings.

    Raises:
        UserError: for a key of `grid` that names no setting.
    """
    for key in entry.grid:
        if key.count(".") != 1:
            raise UserError(f"config: ablations.{name}.grid.{key}: name a setting as section.key.")
    keys = [key.split(".") for key in entry.grid]
    for values in product(*entry.grid.values()) if keys else ():
        at = {key: value for (_, key), value in zip(keys, values, strict=True)}
        settings: dict[str, Any] = {}
        for (section, key), value in zip(keys, values, strict=True):
            settings = merge(settings, {section: {key: value}})
        yield "".join(f".{key}-{_text(value)}" for key, value in at.items()), at, settings
    for point, settings in entry.points.items():
        yield f".{name}-{point}", {name: point}, settings
    for step in entry.steps:
        yield f".step-{step}", {"step": step}, {}
    for mode in entry.modes:
        yield f".{mode}", {"mode": mode}, {}


def run_of(entry: Ablation, base: str, run: Run, at: dict[str, Scalar], settings: dict[str, Any]) -> Run:
    """The run of a point of `run`, whose name is `base`."""
    shared = run.trained and not (entry.train and not entry.steps and not entry.modes)
    return Run(
        method=run.method,
        data=run.data,
        settings=merge(merge(run.settings, entry.settings), settings),
        backbones=entry.backbones or run.backbones,
        model=(run.model or base) if shared else None,
        step=int(at["step"]) if entry.steps else run.step,
        mode=cast(Any, at["mode"]) if entry.modes else run.mode,
        ablation=True,
    )


def _text(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_methods(runs: Runs, name: str, at: Study) -> None:
    """What a run's method asks of its sections together. Raises: UserError."""
    entry = runs.study.runs[name]
    if entry.method == "encoder" and at.encoder is None:
        raise UserError(
            f"config: runs.{name}.method: 'encoder' is the study's encoder, and it has none; name one of "
            "available_encoders in encoder, or leave the run out."
        )
    if entry.method != "encoder" and (wrong := at.pooling.misses(entry.rationales)):
        raise UserError(f"config: runs.{name}: {wrong}.")
    if entry.method == "adapter+grace" and at.grace.lora is None:
        raise UserError(
            f"config: runs.{name}.settings.grace.lora: the generator of adapter+grace is an adapter beside the one "
            "that embeds; give its rank, alpha, dropout and targets."
        )


def check_exhibits(runs: Runs) -> None:
    """That tables, figures, times and cases name runs and ablations that there are. Raises: UserError."""
    both: dict[str, Table | Figure] = {f"tables.{name}": entry for name, entry in runs.study.tables.items()}
    both |= {f"figures.{name}": entry for name, entry in runs.study.figures.items()}
    for where, exhibit in both.items():
        if twice := [name for name in runs.study.tables if where == f"figures.{name}"]:
            raise UserError(f"config: {where}: a table has this name too; rename {twice[0]!r}.")
        known = set(merged_study(runs.config, runs.name).get("ablations", {}))
        for name in exhibit.ablations:
            if name not in known:
                raise UserError(f"config: {where}.ablations: unknown ablation {name!r}{hint(name, known)}.")
        for key, run in (*(("rows", run) for run in exhibit.rows), *_compared(exhibit)):
            if run not in runs.known_runs | set(runs.study.runs) and not _dropped(runs, run):
                raise UserError(f"config: {where}.{key}: unknown run {run!r}{hint(run, runs.study.runs)}.")
            if exhibit.kind in ("general", "scatter", *AT_ONCE):
                _check_writes(runs, f"{where}.{key}", run)
        if (name := where.split(".", 1)[1]) in TARGETS:
            raise UserError(f"config: {where}: a rule is called {name!r}; choose another name.")
    cases = runs.study.cases
    for key, run in (
        ("latency.run", runs.study.latency.run),
        ("cases.progress", cases.progress),
        *(("cases.also", run) for run in cases.also),
    ):
        if run not in runs.known_runs:
            raise UserError(f"config: {key}: unknown run {run!r}{hint(run, runs.known_runs)}.")
        _check_writes(runs, key, run)


def _check_writes(runs: Runs, where: str, run: str) -> None:
    if run in runs.study.runs and runs.study.runs[run].method == "encoder":
        raise UserError(f"config: {where}: run {run!r} is an encoder-only model, which writes nothing; leave it out.")


def _dropped(runs: Runs, run: str) -> bool:
    """Whether a point's run may be missing because its run, or its ablation, is dropped or narrowed."""
    return run.split(".")[0] in runs.known_runs


def _compared(exhibit: Table | Figure) -> list[tuple[str, str]]:
    """(key, run) of the runs that a table of effects names."""
    effects = exhibit.effects if isinstance(exhibit, Table) else []
    return [
        (f"effects.{n}.{key}", run)
        for n, one in enumerate(effects)
        for key, run in (("run", one.run), ("other", one.other))
    ]
