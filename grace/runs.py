"""A validated study: its backbones, its runs with those of its ablations, and where their results lie."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from grace import ablations, specs, tasks
from grace.checks import RULES, check_exhibits, check_methods
from grace.config import Backbone, Encoder, Run, Source, Study
from grace.merging import check_keys, check_mapping, merged_study, switch, with_nulls
from grace.section import UserError, build, hint, merge
from grace.settings import Contrastive

# Sections that a run may change with `settings`.
RUN_SECTIONS = (
    "prompt", "pooling", "generation", "reward", "grace", "cl", "simcse", "adapter", "kl_fence", "rounds", "offline",
    "evaluation",
)  # fmt: skip
MEMORY_ONLY = (
    ("generation", "batch_size"), ("grace", "rollouts_per_forward"), ("offline", "rows_per_forward"),
    ("evaluation", "batch_size"),
)  # fmt: skip


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
        self._raw, self._config = merged, config

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
            for suffix, at, settings in ablations.points(name, entry):
                made = ablations.run_of(entry, base, run, at, settings)
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
    for section, key in MEMORY_ONLY:
        del found[section][key]
    return found
