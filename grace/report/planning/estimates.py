"""GPU time, tokens, memory and disk of a study's jobs, from its settings and the shapes of its backbones."""

from __future__ import annotations

import math

from grace.report.planning import costs
from grace.report.planning.costs import Work
from grace.report.planning.sizes import GENERAL
from grace.report.planning.trainings import STORED, TOKEN_BYTES, Training, Trainings

__all__ = ["ROW_BYTES", "Estimates", "Training"]
ROW_BYTES = 80  # of a JSON line beside its texts


class Estimates(Trainings):
    """Estimates for a study. Args: as of `Reading`."""

    # ---- evaluation ---------------------------------------------------------------------

    def encoded(self, backbone: str, run: str, group: str) -> list[tuple[int, float]]:
        """(number, mean characters) of the texts that a group of tasks encodes, held-out pairs among them."""
        known = self.texts(self.source("supervised"))
        pairs = min(self.pairs(run, group) or 0, self.held_out("supervised")[0])
        found = [(field.distinct, field.mean) for field in self.fields(group, self.groups(backbone, run))]
        return found + [(pairs, known.query), (pairs, known.passage)] * bool(pairs)

    def evaluation(self, backbone: str, run: str, group: str) -> Work:
        """One model on one group of tasks; an encoder-only one takes next to nothing."""
        if self.study.runs[run].method == "encoder":
            return Work()
        b, at, reasons = self.spec.backbones[backbone], self.sections[run], self.study.runs[run].rationales
        chat = reasons or at.evaluation.direct_prompt == "chat"
        texts = [(n, self.prompt(mean, at.prompt, chat)) for n, mean in self.encoded(backbone, run, group)]
        if self.rationales_of(run):
            written = self.rationale(at.evaluation.max_new_tokens)
            flops = sum(costs.forward_flops(b, n, prompt + written) for n, prompt in texts)
            return Work(costs.compute_seconds(self.h, flops), sum(n * prompt for n, prompt in texts))
        return self._encode(b, at.evaluation, texts, reasons)

    def store(self, backbone: str, run: str) -> float:
        """Bytes of a run's embeddings and rationales, written or pooled anew, over the seeds."""
        groups = self.groups(backbone, run)
        return sum(self.stored(backbone, run, groups, group) * self.encodings(backbone, run, group) for group in groups)

    def stored(self, backbone: str, run: str, groups: list[str], *only: str) -> float:
        """The same of one seed, of these groups or of some of them."""
        at, reasons = self.sections[run].evaluation, self.study.runs[run].rationales
        if self.study.runs[run].method == "encoder":
            return 0.0
        each = self.spec.backbones[backbone].width * STORED[at.store]
        each += TOKEN_BYTES * self.rationale(at.max_new_tokens) if reasons else 0
        return each * sum(n for group in only or groups for n, _ in self.encoded(backbone, run, group))

    # ---- what is measured beside MTEB ---------------------------------------------------

    def general(self, backbone: str, run: str) -> Work:
        """One model on the general tasks, and on the held-out texts whose rationales are judged."""
        b, h, at = self.spec.backbones[backbone], self.h, self.sections[run]
        general, done = at.general, Work()
        for name in general.tasks:
            if (size := GENERAL.get(name)) is None:
                continue
            limit = general.limits.get(name, general.limit)
            count = min(size.items, limit * size.parts) if limit else size.items
            steps = math.ceil(count / general.batch_size) * size.written
            seconds = costs.compute_seconds(h, costs.forward_flops(b, count, size.prompt, count))
            if size.written:
                seconds += costs.decode_seconds(b, h, size.prompt, size.written, count, steps)
                seconds += costs.overhead_seconds(h, False, steps)
            done += Work(seconds, count * size.prompt, count * size.written)
        passage = self.prompt(self.texts(self.source("supervised")).passage, at.prompt)
        own = at.evaluation.model_copy(update={"engine": "transformers"})
        return done + self._encode(b, own, [(general.rationales, passage)], True)

    def latency(self, backbone: str) -> Work:
        """Held-out texts one by one: embedded directly, and with a rationale of each budget by backbone and run."""
        b, at, prompt = self.spec.backbones[backbone], self.study.latency, self.study.prompt
        passage = self.prompt(self.texts(self.source("supervised")).passage, prompt)
        texts = at.texts * at.repeats
        written = [self.rationale(budget) for budget in at.budgets] * (1 + (at.run in self.study.runs))
        flops = costs.forward_flops(b, texts * (1 + len(written)), passage)
        seconds = [costs.decode_seconds(b, self.h, passage, n, texts, texts * n) for n in written]
        seconds += [costs.overhead_seconds(self.h, False, texts * sum(written))]
        seconds += [costs.compute_seconds(self.h, flops)]
        return Work(sum(seconds), texts * passage * (1 + len(written)), texts * sum(written))

    def cases(self, backbone: str) -> Work:
        """A few held-out texts by the backbone, the kept checkpoints and the trained models."""
        b, at, prompt = self.spec.backbones[backbone], self.study.cases, self.study.prompt
        known = self.texts(self.source("supervised"))
        texts = [(at.documents, self.prompt(known.passage, prompt)), (at.queries, self.prompt(known.query, prompt))]
        checkpoints = self.kept_steps(at.progress) if at.progress in self.study.runs else []
        update = {"engine": "transformers", "max_new_tokens": at.max_new_tokens}
        models = 1 + len(checkpoints) + len(self.case_runs)
        return self._encode(b, self.study.evaluation.model_copy(update=update), texts, True) * models
