"""All checks of what the paper prints, from the printed numbers and from running the reward code."""

from __future__ import annotations

import pandas as pd

from grace.paper import check_averages, check_cancellation, check_gains, check_general, check_subset
from grace.paper.finding import Finding, Printed


def audit(frame: pd.DataFrame, lambda1: float, lambda2: float) -> list[Finding]:
    """Every finding, those about the main results first.

    Args:
        frame: printed numbers in the form of `numbers.load`.
        lambda1, lambda2: weights of the reward that a study trains with.
    """
    printed = Printed(frame)
    return [
        check_averages.average_weights(printed),
        *(check_gains.gain(kind)(printed) for kind in check_gains.TABLES),
        check_averages.column_order(printed),
        check_cancellation.supervised(printed, lambda1, lambda2),
        check_cancellation.unsupervised(printed, lambda1, lambda2),
        check_general.averages(printed),
        check_subset.grid_of_lambdas(printed, lambda1, lambda2),
        check_subset.between(printed),
        check_general.whole(printed),
        check_general.near_base(printed),
        check_general.deltas(printed),
        check_subset.averages(printed),
        check_gains.repeated(printed),
        check_gains.above(printed),
        check_gains.reasoning(printed),
    ]
