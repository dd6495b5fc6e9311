"""The benchmark of intervals over a few seeds: what it simulates, and how it computes a printed one anew."""

from __future__ import annotations

import pytest
from intervals import anew, main, simulate

pytestmark = pytest.mark.commands


def test_resampling_few_seeds_that_differ_holds_the_truth_less_often_than_it_says() -> None:
    row = simulate(0.4, 200, 3, contrasts=100)
    assert float(row["held 0, resampled"]) < 0.9 < float(row["held 0, now"])
    assert float(row["width, now to resampled"]) > 1.5


def test_seeds_that_differ_widen_a_printed_interval_and_equal_ones_do_not() -> None:
    apart, alike = (
        anew((10.0, 0.0, 5.0), (0.0, 0.0, 0.0), (-1.0, 11.0)),
        anew((5.0, 5.0, 5.0), (0.0,) * 3, (-1.0, 11.0)),
    )
    assert apart.difference == alike.difference == 5.0
    assert apart.ci95[1] > alike.ci95[1] + 3
    assert alike.ci95 == pytest.approx((-1.0, 11.0), abs=0.05)


def test_a_contrast_is_computed_as_the_log_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--first", "54.7,56.3,50.0", "--second", "45.7,42.0,49.3", "--printed=-0.8,16.4"])
    assert capsys.readouterr().out.startswith("+8.0 [-4.8, +20.8]")
    with pytest.raises(SystemExit):
        main(["--first", "1,2", "--second", "1,3"])
    assert "give all three" in capsys.readouterr().err
    with pytest.raises(ValueError, match="1 seeds against 1"):
        anew((1.0,), (0.0,), (0.0, 1.0))
