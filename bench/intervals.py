"""How often intervals over a few seeds hold the truth, and what an interval that resampled seeds becomes.

    python bench/intervals.py
    python bench/intervals.py --first 54.7,56.3,50.0 --second 45.7,42.0,49.3 --printed=-0.8,16.4

The first simulates contrasts without an effect, with `t2.evaluation.statistics.compare_runs` and with what it replaced,
which drew runs and questions both with replacement (Owen 2007, arXiv 0711.4386). The second is for runs that are gone:
their seeds' means and the interval that was printed, as in LOG.md. Its variance is the printed interval's plus that of
the seeds' mean over S, which leaves out what a resampling of S seeds does, and is rather too large.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from measure import count, finish, parser, table
from scipy import stats

from t2.evaluation.statistics import Paired, compare_runs

QUESTIONS_SPREAD = 1.5  # deviation of questions' difficulty, in logits
SETTINGS = ((0.15, 300), (0.4, 300), (0.15, 1319))  # deviation of seeds in logits (3 and 7 points), questions
SEEDS = (2, 3, 5, 10)
RESAMPLES = 499


def resampled(runs: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> Paired:
    """The comparison of (S, n) scores by draws of runs and of questions with replacement."""
    differences = runs - others
    s, n = differences.shape
    drawn = rng.multinomial(s, [1 / s] * s, size=RESAMPLES) @ differences  # (RESAMPLES, n)
    means = (drawn * rng.multinomial(n, [1 / n] * n, size=RESAMPLES)).sum(axis=1) / (s * n)
    low, high = np.quantile(means, (0.025, 0.975))
    beyond = 1 + min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Paired(float(differences.mean()), (float(low), float(high)), min(1.0, 2 * beyond / (RESAMPLES + 1)))


def simulate(deviation: float, questions: int, seeds: int, *, contrasts: int) -> dict[str, float | int | str]:
    """Contrasts of two systems that are equally good, whose seeds and questions vary."""
    rng = np.random.default_rng(7)
    found: list[tuple[Paired, Paired]] = []
    spread = []
    for _ in range(contrasts):
        logits = rng.normal(0, QUESTIONS_SPREAD, questions) + rng.normal(0, deviation, (2, seeds, 1))
        scores = (rng.random((2, seeds, questions)) < 1 / (1 + np.exp(-logits))).astype(float)  # (2, S, n)
        spread.append(scores.mean(axis=2).std(axis=1, ddof=1).mean())
        found.append((resampled(scores[0], scores[1], rng), compare_runs(*scores.tolist())))
    row: dict[str, float | int | str] = {"questions": questions, "seeds": seeds}
    row["deviation of seeds, points"] = round(100 * float(np.mean(spread)), 1)
    for name, of in zip(("resampled", "now"), zip(*found, strict=True), strict=True):
        row[f"held 0, {name}"] = round(float(np.mean([one.ci95[0] <= 0 <= one.ci95[1] for one in of])), 3)
        row[f"p below 0.01, {name}"] = round(float(np.mean([one.p_value <= 0.01 for one in of])), 3)
    widths = [(new.ci95[1] - new.ci95[0]) / (old.ci95[1] - old.ci95[0]) for old, new in found]
    return row | {"width, now to resampled": round(float(np.mean(widths)), 2)}


def anew(first: Sequence[float], second: Sequence[float], printed: tuple[float, float]) -> Paired:
    """The contrast of seeds' means, out of the interval that resampling printed.

    Raises:
        ValueError: other numbers of seeds, or fewer than two.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} seeds against {len(second)}; give two or more, and as many.")
    differences = np.asarray(first) - np.asarray(second)
    of_seeds = float(differences.var(ddof=1)) / len(differences)
    of_printed = ((printed[1] - printed[0]) / 2 / float(stats.norm.ppf(0.975))) ** 2
    variance = of_printed + of_seeds / len(differences)
    rest = max(variance - of_seeds, 0.0)  # of questions, of which there are some 400
    freedom = variance**2 / (of_seeds**2 / (len(differences) - 1) + rest**2 / 400)
    mean, error = float(differences.mean()), variance**0.5
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Paired(mean, (mean - reach, mean + reach), 2 * float(stats.t.sf(abs(mean) / error, freedom)))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def main(arguments: Sequence[str]) -> None:
    """Simulate, or compute a contrast anew where its seeds are given."""
    made = parser(__doc__)
    made.add_argument("--contrasts", type=count, default=300, help="simulated ones a row")
    made.add_argument("--first", type=_numbers, help="means of the first system's seeds")
    made.add_argument("--second", type=_numbers, help="means of the second's, in the same order")
    made.add_argument("--printed", type=_numbers, help="the 95 %% interval that was printed: LOW,HIGH")
    args: argparse.Namespace = made.parse_args(arguments)
    given = [args.first, args.second, args.printed]
    if any(given) and not all(given):
        made.error("--first, --second and --printed belong together: give all three, or none to simulate")
    if args.first:
        found = anew(args.first, args.second, args.printed)
        print(f"{found.difference:+.1f} [{found.ci95[0]:+.1f}, {found.ci95[1]:+.1f}], p = {found.p_value:.4f}")
        return
    rows = [simulate(*setting, seeds, contrasts=args.contrasts) for setting in SETTINGS for seeds in SEEDS]
    finish(args, table(rows), {"simulated": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
