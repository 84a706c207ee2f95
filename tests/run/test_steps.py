"""Reuse of results: what makes a step run again, and what does not."""

import ast

import pytest

from covid3d.run import steps
from covid3d.run.errors import MissingResult


@pytest.fixture
def run(make_run):
    return make_run()


def compute_into(log):
    def compute(folder):
        (folder / "result.csv").write_text(f"{len(log)}")
        log.append("computed")

    return compute


def ensure(run, log, inputs, step="splits"):
    return steps.ensure(run, step, run.path("models", "x"), inputs, compute_into(log))


def test_a_step_is_computed_once(run):
    log = []
    for _ in range(3):
        folder = ensure(run, log, {"a": 1})
    assert log == ["computed"]
    assert (folder / "result.csv").read_text() == "0"


def test_other_inputs_compute_again(run):
    log = []
    ensure(run, log, {"a": 1})
    ensure(run, log, {"a": 2})
    assert len(log) == 2


def test_a_file_counts_by_its_bytes_not_by_its_time(run, tmp_path):
    log, path = [], tmp_path / "input.csv"
    path.write_text("1")
    ensure(run, log, {"file": path})
    path.write_text("1")
    ensure(run, log, {"file": path})
    assert len(log) == 1
    path.write_text("2")
    ensure(run, log, {"file": path})
    assert len(log) == 2


def test_a_lost_output_is_computed_again(run):
    log = []
    (ensure(run, log, {}) / "result.csv").unlink()
    ensure(run, log, {})
    assert len(log) == 2


def test_a_failed_computation_leaves_the_old_result(run):
    log = []
    folder = ensure(run, log, {"a": 1})

    def fail(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        steps.ensure(run, "splits", folder, {"a": 2}, fail)
    assert (folder / "result.csv").read_text() == "0"
    assert ensure(run, log, {"a": 1}) == folder
    assert len(log) == 1


def test_without_compute_a_missing_result_names_the_command(run):
    with pytest.raises(MissingResult, match="make run RUN=test"):
        ensure(run.with_options(compute=False), [], {})


def test_a_step_in_place_runs_again_only_when_inputs_or_outputs_change(run):
    log = []

    def compute():
        run.path("flow.json").write_text("{}")
        log.append("computed")

    for _ in range(2):
        steps.ensure_in_place(run, "intake", ["flow.json"], {"a": 1}, compute)
    assert len(log) == 1
    run.path("flow.json").unlink()
    steps.ensure_in_place(run, "intake", ["flow.json"], {"a": 1}, compute)
    steps.ensure_in_place(run, "intake", ["flow.json"], {"a": 2}, compute)
    assert len(log) == 3


def test_seed_world_and_declared_keys_change_a_fingerprint(make_run):
    first = steps.static_fingerprint(make_run("a", seed=1), "splits")
    assert first != steps.static_fingerprint(make_run("b", seed=2), "splits")
    assert first != steps.static_fingerprint(make_run("c", seed=1, world="null"), "splits")
    assert first != steps.static_fingerprint(make_run("d", seed=1, profile="standard"), "splits")


def test_a_profile_key_that_a_step_does_not_declare_does_not_matter(run):
    changed = run.profile.model_copy(
        update={"statistics": run.profile.statistics.model_copy(update={"bootstrap": 999})}
    )
    other = type(run)(run.name, run.root, run.config, changed)
    assert steps.static_fingerprint(run, "fold") == steps.static_fingerprint(other, "fold")
    assert steps.static_fingerprint(run, "external") != steps.static_fingerprint(other, "external")


def test_every_step_starts_in_a_module_that_exists_and_reads_keys_that_exist(run):
    for name, step in steps.STEPS.items():
        assert step.module in steps.imported_modules(step.module), name
        assert steps.profile_values(run, step.keys)


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
    assert steps.code_hash(same) == steps.code_hash(BASE)


@pytest.mark.parametrize("other", [BASE.replace("3", "4"), BASE.replace("+", "-"), BASE + "\nX = 1\n"])
def test_code_counts(other):
    assert steps.code_hash(other) != steps.code_hash(BASE)


def test_imports_are_found_also_inside_functions():
    tree = ast.parse("def f():\n    from covid3d.ct import volume\n    import covid3d.run.files\n")
    assert steps.imports_of(tree) == {"covid3d.ct", "covid3d.ct.volume", "covid3d.run.files"}


def test_imports_are_followed_through_other_modules():
    assert "covid3d.run.errors" in steps.imported_modules("covid3d.run.steps")
