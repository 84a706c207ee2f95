"""Reuse of results: what makes a step run again, and what does not."""

import importlib

import pytest

from covid3d.report import collect
from covid3d.run import steps
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.fingerprint import imported_modules, profile_values


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
        module, _, function = step.entry.partition(":")
        assert hasattr(importlib.import_module(module), function), name
        assert step.module in imported_modules(step.module), name
        assert profile_values(run, step.keys) or not step.keys


def test_needs_come_before_what_needs_them(run):
    order = steps.all_needs(run, "book")
    assert order[0] == "cohort" and order[-1] == "collect"
    for name in order:
        assert all(order.index(need) < order.index(name) for need in steps.needs(run, name)), name


def test_a_run_with_given_weights_trains_nothing(root, make_run):
    (root / "given.safetensors").touch()
    site = make_run("site", weights="given.safetensors")
    assert steps.chapters_of(site) == ("10_your_hospital",)
    assert steps.all_needs(site, "book") == ["cohort", "intake", "splits", "given", "10_your_hospital", "collect"]


def test_a_step_is_called_once_for_each_fold_and_variant(run):
    assert [values["fold"] for values in steps.values_over(run, "fold")] == [0, 1]
    assert list(steps.values_over(run, "prognosis"))[2] == {"variant": "pair", "fold": 0}
    assert list(steps.values_over(run, "cohort")) == [{}]


def test_an_unknown_step_gives_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'fold'"):
        steps.known("fol")


def test_the_budget_is_that_of_a_report():
    assert sum(collect.BUDGET.values()) <= 25
    assert {step.budget for step in steps.STEPS.values()} - {""} == set(collect.BUDGET)


@pytest.mark.parametrize(
    "name",
    ["fold", "selection", "slices", "windows", "explain", "random_labels", "evidence", "prognosis", "comparator"],
)
def test_what_takes_minutes_does_not_depend_on_how_it_is_drawn_or_told(name):
    modules = imported_modules(steps.STEPS[name].module)
    assert not [
        module for module in modules if module.startswith(("covid3d.figures", "covid3d.report", "covid3d.show"))
    ]
