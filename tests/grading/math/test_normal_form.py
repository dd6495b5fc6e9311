"""Unicode in LaTeX's words, and the signs that a text holds."""

from t2.grading.math.normal_form import ascii_only, normalized, signs


def test_unicode_is_spelled_as_latex():
    assert ascii_only("x²⁻ⁿ") == "x^{2-n}"
    assert normalized("½") == normalized("\\frac12")
    assert normalized("1\u202f234") == "1 234"
    assert normalized("√5") == normalized("√(5)") == "\\sqrt{5}"


def test_a_row_of_a_matrix_is_no_spacing():
    assert normalized("1 \\\\ 2") == "1\\\\2"


def test_signs():
    assert signs("50\\%") == {"percent"}
    assert signs("90°") == signs("90^{\\circ}") == {"degree"}
    assert signs("\\$5") == {"dollar"}
    assert signs("$5$") == frozenset()
