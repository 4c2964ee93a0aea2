"""How long texts are, and what it takes to read them and to write rationales about them."""

from __future__ import annotations

from collections.abc import Iterable

from grace.config import Backbone, Evaluation
from grace.report.planning import costs
from grace.report.planning.costs import Work
from grace.report.planning.needs import Needs
from grace.report.planning.sizes import SOURCES, UNKNOWN, Texts
from grace.settings import Prompt
from grace.specs import PlanSpec

TEMPLATE_TOKENS = 15  # of a chat template around instruction and text
VLLM_MEMORY = 0.9  # share of a GPU that vLLM takes where it is alone: its default


class Reading(Needs):
    """What is known of a study's texts.

    Args:
        spec: the study.
        kept: rows of a source after `pairs`, where it has run.
    """

    def __init__(self, spec: PlanSpec, kept: dict[str, int] | None = None) -> None:
        super().__init__(spec)
        self.h, self.kept = spec.study.hardware, kept or {}

    # ---- texts --------------------------------------------------------------------------

    def texts(self, source: str) -> Texts:
        """What is known of a source: the rows that `pairs` kept, or else those that the paper names."""
        known = SOURCES.get(str(self.spec.sources[source].id), UNKNOWN)
        rows = self.kept.get(source, min(known.rows, self.study.data.max_rows or known.rows))
        return known._replace(rows=rows)

    def rows(self, data: str) -> int:
        """Training rows, after the split."""
        return self.texts(self.source(data)).rows - sum(self.held_out(data))

    def held_out(self, data: str) -> tuple[int, int]:
        """Rows for testing and for validation."""
        rows, at = self.texts(self.source(data)).rows, self.study.data
        test, validation = (round(rows * share) if share < 1 else round(share) for share in (at.test, at.validation))
        return test, validation

    def negatives(self) -> int:
        """M: of triples one, as in the paper's data; of pairs as many as are mined."""
        form = self.spec.sources[self.study.data.supervised].form
        return 1 if form == "triples" else self.study.data.mining.negatives

    def prefix(self, prompt: Prompt) -> float:
        return len(prompt.instruction) / self.h.characters_per_token + TEMPLATE_TOKENS

    def prompt(self, characters: float, prompt: Prompt, chat: bool = True) -> float:
        """Tokens of a prompt whose text has `characters`, cut at its limit."""
        whole = characters / self.h.characters_per_token + (self.prefix(prompt) if chat else 0)
        return min(max(whole, 1.0), prompt.max_prompt_tokens)

    def rationale(self, limit: int) -> int:
        return min(self.h.rationale_tokens, limit)

    def _steps(self, texts: float, limit: int, together: int) -> float:
        """Decoding steps of an engine that writes `together` texts at a time: the next takes a finished one's slot."""
        return max(texts * self.rationale(limit) / together, limit if texts else 0)

    def _encode(self, b: Backbone, at: Evaluation, texts: Iterable[tuple[int, float]], reasons: bool) -> Work:
        h, limit, vllm = self.h, at.max_new_tokens, at.engine == "vllm"
        done, written = Work(), self.rationale(limit)
        for count, prompt in texts:
            flops, seconds = costs.forward_flops(b, count, prompt, count if reasons else 0), 0.0
            if reasons:
                memory = VLLM_MEMORY * h.memory_gb * 1e9
                together = costs.slots(b, h, memory, prompt + written) if vllm else at.batch_size
                steps = self._steps(count, limit, together)
                seconds = costs.decode_seconds(b, h, prompt, written, count, steps)
                seconds += costs.overhead_seconds(h, vllm, steps)
                flops += costs.forward_flops(b, count, prompt + written) if vllm else 0.0
            seconds += costs.compute_seconds(h, flops)
            done += Work(seconds, count * prompt, count * written if reasons else 0)
        return done
