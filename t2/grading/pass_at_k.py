"""pass@k without bias: the chance that at least one of k samples, drawn from those at hand, is right.

Chen et al. 2021 (arXiv 2107.03374), equation 1: 1 - C(n - c, k) / C(n, k), computed as a product of ratios, so that no
binomial overflows. Of one problem; a benchmark's number is the mean over its problems.
"""

from __future__ import annotations

import math


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate in [0, 1] from `correct` of `samples` answers to one problem.

    Raises:
        ValueError: there are fewer samples than k, or counts that no run can give.
    """
    if samples < 1 or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@k got samples={samples} and correct={correct}; allowed: 1 sample or more, of which 0 to all correct."
        )
    if not 1 <= k <= samples:
        raise ValueError(
            f"pass@k got k={k} with samples={samples}; allowed: 1 to {samples}. Take a smaller k, or sample more "
            "answers per problem."
        )
    if samples - correct < k:
        return 1.0  # every draw holds a right one
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))
