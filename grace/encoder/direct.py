"""What the model reads of a text that is embedded without rationale."""

from __future__ import annotations

from grace.method.prompt import PromptTemplate


def direct_ids(template: PromptTemplate, texts: list[str], prompt: str, ends: list[int]) -> tuple[list[list[int]], int]:
    """Token ids of texts that are embedded without rationale, and from where on they are pooled.

    `chat` keeps the prompt with the instruction (the released code's way), `plain` is the text
    alone; an empty plain text becomes one end token, since something must be pooled.
    """
    if prompt == "chat":
        return template.ids(texts), len(template.prefix)
    return [ids or ends[:1] for ids in template.text_ids(texts, template.max_prompt_tokens)], 0
