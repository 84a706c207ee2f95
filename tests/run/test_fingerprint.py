"""What counts in the fingerprint of code, and what does not."""

import ast

import pytest

from covid3d.run.fingerprint import code_hash, imported_modules, imports_of

BASE = '"""Doc."""\n\nLIMIT = 3\n\n\ndef f(x):\n    """Return."""\n    return x + LIMIT\n'


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("LIMIT = 3", "LIMIT = 3  # why"),
        BASE.replace('"""Doc."""', '"""Another."""'),
        BASE.replace('    """Return."""\n', ""),
        BASE.replace("x + LIMIT", "(x\n            + LIMIT)"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(same):
    assert code_hash(same) == code_hash(BASE)


@pytest.mark.parametrize("other", [BASE.replace("3", "4"), BASE.replace("+", "-"), BASE + "\nX = 1\n"])
def test_code_counts(other):
    assert code_hash(other) != code_hash(BASE)


def test_imports_are_found_also_inside_functions():
    tree = ast.parse("def f():\n    from covid3d.ct import volume\n    import covid3d.run.files\n")
    assert imports_of(tree) == {"covid3d.ct", "covid3d.ct.volume", "covid3d.run.files"}


def test_imports_are_followed_through_other_modules():
    assert "covid3d.run.errors" in imported_modules("covid3d.cohort.intake")


def test_the_registry_of_steps_is_in_no_fingerprint():
    assert "covid3d.run.steps" not in imported_modules("covid3d.cohort.intake")
