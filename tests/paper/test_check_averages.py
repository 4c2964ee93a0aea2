"""What the averages weigh and which rows are shuffled, on the paper's numbers and on altered ones."""

from grace.paper import numbers
from grace.paper.check_averages import average_weights, choose, column_order
from tests.paper.altered import ORDER, printed, straightened


def over_56(row) -> float:
    return round(sum(numbers.COUNTS[c] * score for c, score in zip(ORDER, row.scores, strict=True)) / 56, 2)


def test_summarization_is_found_to_count_ten_times():
    finding = average_weights(printed())
    assert finding.verdict == "contradicted"
    assert "0 of 28" in finding.found and "15/4/11/3/12/10/10 over 65 fits all" in finding.found
    assert "Summarization counts 10 times, not 1" in finding.found
    assert "one, up to a common factor" in finding.arithmetic
    assert "between 0.64 and 4.22 points" in finding.arithmetic
    assert "BERT and LLM2Vec-LLaMA-3-8B agree" in finding.arithmetic
    assert "between 9.996 and 10.021" in finding.arithmetic


def test_true_averages_are_confirmed():
    changes = {(row.table, row.backbone, row.name, "Avg"): over_56(row) for row in printed().own()}
    assert average_weights(printed(changes)).verdict == "confirmed"
    one = dict(list(changes.items())[:1])
    finding = average_weights(printed(one))
    assert finding.verdict == "contradicted" and "1 of 28" in finding.found


def test_one_altered_average_is_named():
    finding = average_weights(printed({("table1", "qwen3-4b", "grace", "Avg"): 57.64}))
    assert "No whole weights fit all" in finding.found
    assert "15/4/11/3/12/10/10 over 65 fits all but table 1 qwen3-4b grace" in finding.found


def test_one_altered_score_is_named():
    finding = average_weights(printed({("table2", "llama3.2-3b", "simcse", "STS"): 64.44}))
    assert "fits all but table 2 llama3.2-3b simcse" in finding.found


def test_two_altered_rows_leave_no_weights():
    changes = {("table1", "qwen3-4b", row, "Avg"): 50.0 for row in ("base", "grace")}
    assert "nor all but one" in average_weights(printed(changes)).found


def test_two_rows_are_found_to_be_shuffled_and_put_back():
    finding = column_order(printed())
    assert finding.verdict == "contradicted"
    assert "RoBERTa and Echo-Mistral-7B print Classification, Clustering" in finding.found
    assert "alphabet" in finding.found and "8 for RoBERTa, 11 for Echo-Mistral-7B" in finding.arithmetic
    assert "exactly one fits all" in finding.arithmetic and "The 28 own rows fit it as printed" in finding.arithmetic
    assert "| RoBERTa, put back | 8.62 | 41.92 | 29.05 | 56.95 | 62.63 |" in finding.arithmetic


def test_one_row_put_back_leaves_the_other():
    for kept, other in (("RoBERTa", "Echo-Mistral-7B"), ("Echo-Mistral-7B", "RoBERTa")):
        finding = column_order(printed(straightened(kept)))
        assert finding.verdict == "contradicted" and finding.found.startswith(f"{other} print Classification, Clus")
        assert "nearest to the rows in order" in finding.arithmetic


def test_both_rows_put_back_are_confirmed():
    finding = column_order(printed(straightened("RoBERTa", "Echo-Mistral-7B")))
    assert finding.verdict == "confirmed"


def test_a_row_that_no_order_explains_is_said_so():
    finding = column_order(printed({("table2", "open", "BERT", "Avg"): 99.0}))
    assert finding.verdict == "contradicted" and "no one order" in finding.found


def test_a_swap_of_two_columns_is_undone():
    row = printed().row("table2", "open", "BERT")
    swapped = row._replace(scores=[row.scores[1], row.scores[0], *row.scores[2:]])
    others = [one for one in printed().quoted() if one.name.startswith("LLM2Vec")]
    assert choose([swapped], others)[0] == (1, 0, 2, 3, 4, 5, 6)


def test_too_few_rows_cannot_be_checked():
    rows = [key for key in numbers.index(numbers.load()) if key[0] in ("table1", "table2") and key[1] != "open"]
    few = printed()
    few.numbers = {k: v for k, v in few.numbers.items() if k not in rows or k[:3] == ("table1", "qwen3-4b", "base")}
    few.numbers |= {("table2", "open", "BERT", c): few.numbers["table2", "open", "BERT", c] for c in (*ORDER, "Avg")}
    assert average_weights(few).verdict == "cannot be checked"
