"""What each rule is told: its slice of the study, as JSON. The rules ask `Plan` and nothing else."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from grace import specs
from grace.exhibits import AT_ONCE
from grace.runs import contrastive
from grace.section import Section, merge
from grace.shown import REFERENCE, Shown, files


class Plan(Shown):
    """A validated study and the slices of it. Raises: as `Runs`."""

    # ---- data, training ------------------------------------------------------------------

    def spec_source(self, source: str) -> str:
        return _json(specs.SourceSpec(name=source, source=self.sources[source], max_rows=self.study.data.max_rows))

    def spec_pairs(self, source: str) -> str:
        data = self.study.data
        form = self.sources[source].form
        return _json(specs.PairsSpec(form=form, near_duplicate_cosine=data.near_duplicate_cosine))

    def spec_split(self) -> str:
        data = self.study.data
        return _json(
            specs.SplitSpec(
                test=data.test,
                validation=data.validation,
                split=data.split,
                near_duplicate_cosine=data.near_duplicate_cosine,
                seed=0,
            )
        )

    def spec_triples(self) -> str:
        mining = self.study.data.mining
        folders = self.mining_encoder()
        return _json(specs.TriplesSpec(mining=mining.model_copy(update={"encoder": folders[0]}) if folders else mining))

    def spec_encoder(self, encoder: str) -> str:
        return _json(specs.EncoderSpec(encoder=self.encoders[encoder]))

    def spec_lengths(self, data: str) -> str:
        return _json(
            specs.LengthsSpec(prompt=self.study.prompt, data=cast(Any, data), too_long=self.study.data.too_long)
        )

    def spec_tasks(self) -> str:
        return _json(specs.TasksSpec(seed=0))

    def spec_backbone(self, backbone: str) -> str:
        return _json(specs.BackboneSpec(backbone=self.backbones[backbone], prompt=self.study.prompt))

    def spec_train(self, run: str, seed: int | str, keep_steps: list[int] | None = None) -> str:
        """keep_steps: None for those that the ablations look at."""
        at, entry = self.sections(run), self.study.runs[run]
        common: dict[str, Any] = dict(
            run=run, method=entry.method, data=entry.data, seed=int(seed), prompt=at.prompt, pooling=at.pooling,
            keep_steps=self.keep_steps(run) if keep_steps is None else keep_steps,
        )  # fmt: skip
        if entry.method == "best-of":
            common |= dict(generation=at.generation, reward=at.reward, offline=at.offline, instances=at.grace.instances)
        elif "grace" in entry.method:
            common |= dict(generation=at.generation, reward=at.reward, grace=at.grace)
        if entry.method not in ("grace", "best-of"):
            common |= dict(contrastive=contrastive(at, entry.method), direct_prompt=at.evaluation.direct_prompt)
        if entry.method == "adapter+grace":  # each part's steps are those of a round
            common |= dict(
                rounds=at.rounds,
                contrastive=at.adapter.model_copy(update={"max_steps": at.rounds.adapter_steps or None}),
                grace=at.grace.model_copy(update={"max_steps": at.rounds.policy_steps}),
            )
        if self.rationales_read(run):
            rows = contrastive(at, entry.method).rows
            common |= dict(rationales=self._rationales(str(entry.data)).model_copy(update={"rows": rows}))
        return _json(specs.TrainSpec(**common))

    def spec_rationales(self, data: str) -> str:
        return _json(self._rationales(data))

    def _rationales(self, data: str) -> specs.RationalesSpec:
        """Sampled as in training, as long as in evaluation: what an embedding will be made of."""
        readers = [run for run, at in self.study.runs.items() if at.data == data and self.rationales_read(run)]
        wanted = [contrastive(self.sections(run), self.study.runs[run].method).rows for run in readers]
        at = self.study
        encode = self.encode("backbone", 0).model_copy(
            update={"sampling_temperature": at.generation.sampling_temperature}
        )
        rows = None if None in wanted else max((n for n in wanted if n), default=None)
        return specs.RationalesSpec(data=cast(Any, data), rows=rows, store=at.evaluation.store, encode=encode)

    def train_inputs(self, backbone: str, run: str) -> dict[str, str]:
        """Files that a training waits for: the backbone, its rows, and the rationales that it learns from."""
        data = str(self.study.runs[run].data)
        found = {
            "backbone": f"{self.backbone_folder(backbone)}/manifest.json",
            "rows": f"{self.root}/data/rows/{backbone}/{data}.jsonl",
        }
        return found | ({"rationales": self.rationales_written(backbone, data)} if self.rationales_read(run) else {})

    # ---- evaluation ---------------------------------------------------------------------

    def encode(self, run: str, seed: int | str) -> specs.EncodeSpec:
        at = self.sections(run)
        # vLLM serves one set of weights; here what writes is an adapter that is off while texts are pooled.
        two = run != "backbone" and self.study.runs[run].method == "adapter+grace"
        engine = "transformers" if two else at.evaluation.engine
        return specs.EncodeSpec(
            prompt=at.prompt,
            pooling=at.pooling,
            engine=engine,
            rationales=run == "backbone" or self.study.runs[run].rationales,
            direct_prompt=at.evaluation.direct_prompt,
            max_new_tokens=at.evaluation.max_new_tokens,
            sampling_temperature=at.evaluation.sampling_temperature,
            batch_size=at.evaluation.batch_size,
            compile=at.evaluation.compile,
            seed=int(seed),
        )

    def spec_evaluate(self, backbone: str, run: str, seed: int | str, group: str) -> str:
        at = self.sections(run).evaluation
        names = at.groups[group]
        source = self.rationales_of(run)
        return _json(
            specs.EvaluateSpec(
                run=run, group=group, tasks=names,
                local={name: at.local[name] for name in names if name in at.local},
                sample={name: at.sample[name] for name in names if name in at.sample},
                store=at.store, encode=None if run in self.encoder_runs else self.encode(run, seed),
                rationales_of=self.encode(source, seed) if source else None,
                layers=self._layers_below(backbone, run), standardize=at.standardize, rows=at.rows.get(backbone),
                pairs=min(at.pairs, at.rows.get(backbone, at.pairs)) if self.pair_rows(run, group) else 0,
            )
        )  # fmt: skip

    def standard_rows(self, run: str) -> list[str]:
        """Training rows by whose embeddings a run's are standardised."""
        rows = f"{self.root}/data/split/{self.study.data.supervised}/train.jsonl"
        return [rows] if self.sections(run).evaluation.standardize else []

    @cached_property
    def _layer_points(self) -> list[specs.Point]:
        return [at for every in self.points.values() for at in every if {*at.at} == {"layer"}]

    def _sweep(self, backbone: str, run: str) -> dict[int, str]:
        """Layer -> run, of the direct embeddings that differ from those of `run` in their layer alone."""
        points = self._layer_points
        of = next((at.of for at in points if at.run == run != at.of), None)
        if of is None:
            return {}
        return {
            int(at.at["layer"]): at.run
            for at in points
            if at.of == of != at.run and backbone in self.backbones_of_run(at.run) and not self.run(at.run).rationales
        }  # fmt: skip

    def _layers_below(self, backbone: str, run: str) -> list[int]:
        """Of a sweep's deepest layer the others: its pass pools them too."""
        *others, deepest = sorted(self._sweep(backbone, run)) or [-1]
        return others if self._sweep(backbone, run).get(deepest) == run else []

    def pair_rows(self, run: str, group: str) -> list[str]:
        """Held-out pairs, in the one group in which a run's geometry is measured."""
        return [self.test_rows()] if group == self.geometry_group and self.run(run).measured else []

    def rationales_of(self, run: str) -> str | None:
        """The run that has written the rationales of this one: the same model, other pooling or a larger budget; of
        an adapter, which leaves the backbone's writing as it is, the untrained run."""
        of = next((at.of for points in self.points.values() for at in points if at.run == run != at.of), None)
        entry = self.study.runs.get(run)
        if entry is None or entry.step or not entry.rationales:
            return None
        if entry.method == "adapter":
            of = REFERENCE if REFERENCE in self.study.runs else None
        elif of is None and not entry.trained and run != REFERENCE and REFERENCE in self.study.runs:
            of = REFERENCE
        elif of is None or (entry.trained and entry.model != of) or not self.study.runs[of].rationales:
            return None
        if of is None:
            return None
        ours, theirs = self.encode(run, 0), self.encode(of, 0)
        free = {"pooling": ours.pooling, "max_new_tokens": ours.max_new_tokens}
        same = theirs.model_copy(update=free) == ours and ours.max_new_tokens <= theirs.max_new_tokens
        return of if same else None

    def evaluated_before(self, backbone: str, run: str, seed: int | str, group: str) -> list[str]:
        """The result whose job has written this job's rationales, or pooled its layer."""
        sweep = self._sweep(backbone, run)
        of = self.rationales_of(run) or (sweep[max(sweep)] if sweep else None)
        return [f"{self.root}/mteb/{backbone}/{of}/seed{seed}/{group}.json"] if of and of != run else []

    def spec_general(self, backbone: str, run: str, seed: int | str) -> str:
        # lm-eval's model and the rationales share one copy of the weights.
        encode = self.encode(run, seed).model_copy(update={"engine": "transformers"})
        rows = self.study.evaluation.rows.get(backbone)
        return _json(specs.GeneralSpec(run=run, general=self.study.general, encode=encode, rows=rows))

    def spec_latency(self) -> str:
        seed = self.study.seeds[0]
        encode = self.encode(REFERENCE if REFERENCE in self.study.runs else "backbone", seed)
        return _json(specs.LatencySpec(latency=self.study.latency, encode=encode, seed=seed))

    def case_models(self, backbone: str) -> list[tuple[str, str]]:
        """Folder of each model whose rationales are shown, and the file that says it is ready."""
        seed = self.study.seeds[0]
        folder = f"{self.root}/models/{backbone}"
        found = []
        for one in self._case_models(backbone):
            if one.step == 0:
                ready = self.backbone_folder(backbone)
                found.append((ready, f"{ready}/manifest.json"))
                continue
            ready = f"{folder}/{one.run}/seed{seed}"
            found.append((f"{ready}/step{one.step}" if one.step else ready, f"{ready}/manifest.json"))
        return found

    def _case_models(self, backbone: str) -> list[specs.CaseModel]:
        cases = self.study.cases
        named = [run for run in (cases.progress, *cases.also) if run in self.study.runs]
        runs = [run for run in named if backbone in self.backbones_of_run(run)]
        steps = [0, *self.keep_steps(cases.progress)] if cases.progress in runs else [0]
        return [specs.CaseModel(run=cases.progress, step=step) for step in steps] + [
            specs.CaseModel(run=run, step=None) for run in runs
        ]

    def spec_cases(self, backbone: str) -> str:
        cases = self.study.cases
        encode = self.encode("backbone", self.study.seeds[0])
        encode = encode.model_copy(update={"engine": "transformers", "max_new_tokens": cases.max_new_tokens})
        return _json(
            specs.CasesSpec(
                models=self._case_models(backbone), documents=cases.documents, queries=cases.queries, encode=encode
            )
        )

    # ---- report -------------------------------------------------------------------------

    def spec_tables(self, table: str) -> str:
        entry = self.study.tables[table]
        return _json(
            specs.TablesSpec(
                study=self.name, bootstrap=self.study.bootstrap, name=table,
                table=entry.model_copy(update={"rows": self._rows(entry)}),
                tasks=self._tasks(bool(entry.ablations) or entry.subset), cells=self.cells(table),
                encoders=[run for run in self._rows(entry) if run in self.encoder_runs],
                cases=self._cases(table), traded=self.traded(entry) if entry.kind in AT_ONCE else None,
            )
        )  # fmt: skip

    def spec_figures(self, figure: str) -> str:
        entry = self.study.figures[figure]
        cells, general, latency = self._figure_files(figure)
        points = self.traded(entry).points if entry.kind in AT_ONCE else self.figure_points(entry)
        steps = {point.of: self.sections(point.of).grace.max_steps for point in self.figure_points(entry)}
        return _json(
            specs.FiguresSpec(
                study=self.name, bootstrap=self.study.bootstrap, name=figure, figure=entry,
                tasks=self._tasks(bool(entry.ablations)), cells=cells, general=general,
                points=points, ends={run: end for run, end in steps.items() if end}, latency=latency,
            )
        )  # fmt: skip

    def spec_audit(self) -> str:
        at = self.study.reward
        return _json(specs.AuditSpec(study=self.name, lambda1=at.lambda1, lambda2=at.lambda2))

    def spec_claims(self) -> str:
        main = [run for run, at in self.study.runs.items() if not (at.ablation or at.extra)]
        rows = self.study.tables["baselines"].rows if "baselines" in self.study.tables else []
        passes = [run for run in rows if run in self.study.runs and self.run(run).method == "base"]
        cells = self._cells(main, self.study.backbones, self.mteb_results)
        cells += self._cells(
            [run for run in passes if run not in main],
            self.study.backbones,
            lambda backbone, run, seed: self.mteb_results(backbone, run, seed, subset=True),
        )
        writing = [run for run in main if run not in self.encoder_runs]
        general = self._cells(
            writing, self.study.backbones, lambda backbone, run, seed: [self.general_result(backbone, run, seed)]
        )
        return _json(
            specs.ClaimsSpec(
                study=self.name, bootstrap=self.study.bootstrap, tasks=self._tasks(False), cells=cells,
                general=general, baselines=passes, subset=self._tasks(True),
                traded=self.traded(*self.trade_off()) if self.tradeoff_wanted else None,
            )
        )  # fmt: skip

    def claim_inputs(self) -> list[str]:
        """Every result of the study's own runs, and of the trade-off's where that is asked for."""
        spec = specs.ClaimsSpec.model_validate_json(self.spec_claims())
        more = files(spec.traded) if spec.traded else []
        return list(dict.fromkeys([path for cell in spec.cells + spec.general for path in cell.results] + more))

    def results_wanted(self) -> list[str]:
        """Every file that the tables, figures and claims read which are made unasked."""
        paths = [path for name in self.wanted("table") for path in self.table_inputs(name)]
        paths += [path for name in self.wanted("figure") for path in self.figure_inputs(name)]
        return list(dict.fromkeys(paths + self.claim_inputs()))

    def evaluations(self) -> list[str]:
        """MTEB results among them."""
        return [path for path in self.results_wanted() if path.startswith(f"{self.root}/mteb/")]

    def spec_page(self) -> str:
        both: list[tuple[Any, Any]] = [("table", self.study.tables), ("figure", self.study.figures)]
        exhibits = [
            specs.Exhibit(
                name=name, form=form, title=entry.title, caption=entry.caption, shown=name in self.wanted(form)
            )
            for form, every in both
            for name, entry in every.items()
        ]  # fmt: skip
        return _json(specs.PageSpec(study=self.name, title=self.study.title, exhibits=exhibits, config=self._config))

    def spec_plan(self) -> str:
        return _json(specs.PlanSpec(config=self._config))

    def changed(self, settings: dict[str, Any]) -> Plan:
        """The same study with some of its settings changed."""
        studies = self._config["studies"]
        return Plan({**self._config, "studies": {**studies, self.name: merge(studies[self.name], settings)}})


def _json(spec: Section) -> str:
    return spec.model_dump_json()
