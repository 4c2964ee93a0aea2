"""Text that no table may be broken by."""

TEXT = (
    "a|b \\| <think>x</think> <|im_start|>user\n\n# head\\ *b* **c** _d_ `e` [f](g) ![h](i) &amp; &lt; $j$ ~~k~~\n"
    "- 100 % {l} --- ^~ m\x07n\x00 \u202eo\tp \"q\" 'r' é 中 … \\n \\begin{x} \\\\ [s] "
    "http://t.example/_u_ <!-- v --> <br> end"
)
# What is not seen is spelled out; blank lines are one newline where newlines are kept.
SEEN = TEXT.replace("\x07", "\\x07").replace("\x00", "\\x00").replace("\u202e", "\\u202e").replace("\t", "\\t")
LINES = SEEN.replace("\n\n", "\n")
