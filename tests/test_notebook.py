"""The first cell of a notebook: only its parameters count, and a misspelt one stops it with the nearest name."""

import pytest

from covid3d import notebook
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.profile import open_run

CELL = 'run = "smoke"\ncompute = True\ndevice = "cpu"'
OPEN = 'run, show = notebook.open("01_data", globals())'


def namespace(*cells, **values):
    return {"In": ["", CELL, *cells, OPEN], "run": "smoke", "compute": True, "device": "cpu", **values}


def test_it_opens_the_run_with_the_options_of_this_process(root):
    run, show = notebook.open("01_data", namespace(compute=False))
    assert (run.name, run.compute, run.device, show.chapter) == ("smoke", False, "cpu", "01_data")


def test_nothing_else_in_the_kernel_is_a_parameter(root):
    """A start-up file of IPython, and what the reader has made, lie in the namespace but in no cell before."""
    run, _ = notebook.open("01_data", namespace(my_folder="x", answer=42))
    again, _ = notebook.open("01_data", namespace(**{"run": run, "a_table_of_the_reader": [1]}))
    assert again.name == "smoke"


def test_a_misspelt_parameter_of_papermill_gives_the_nearest_name(root):
    injected = '# Parameters\nmargin_point = 5.0\nrun = "smoke"\n'
    cells = namespace("margin_points = None", injected, margin_points=None, margin_point=5.0)
    with pytest.raises(ConfigError, match="unknown key 'margin_point'. Did you mean 'margin_points'"):
        notebook.open("05_reader_comparison", cells)


def test_a_parameter_that_was_corrected_in_the_same_kernel_is_accepted(root):
    wrong = CELL.replace("device", "dvice")
    cells = {"In": ["", wrong, OPEN, CELL, OPEN], "run": "smoke", "compute": True, "device": "cpu", "dvice": "cpu"}
    assert notebook.open("01_data", cells)[0].device == "cpu"
    again = {"In": ["", CELL, OPEN, wrong, OPEN], "run": "smoke", "compute": True, "device": "cpu", "dvice": "cpu"}
    with pytest.raises(ConfigError, match="unknown key 'dvice'"):
        notebook.open("01_data", again)


def test_without_a_cell_of_parameters_the_missing_ones_are_named(root):
    with pytest.raises(ConfigError, match="key 'run' is missing"):
        notebook.open("01_data", {"In": [""]})
    typed = namespace(CELL.replace("compute = True", "compute: bool = False"), compute=False)
    assert not notebook.open("01_data", typed)[0].compute


@pytest.mark.parametrize("wrong", [{"late_days": "three"}, {"late_days": -1}, {"device": "gpu"}, {"compute": 1}])
def test_an_ill_typed_parameter_is_named(root, wrong):
    cells = namespace("late_days = 3", **{"late_days": 3, **wrong})
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        notebook.open("06_trajectories", cells)


def test_an_unknown_chapter_gives_the_nearest_name(root):
    with pytest.raises(ConfigError, match="01_data"):
        notebook.open("01_dat", namespace())


def test_a_run_with_given_weights_has_the_hospitals_chapter_alone(root):
    (root / "weights.safetensors").touch()
    open_run("site", profile="smoke", weights="weights.safetensors")
    with pytest.raises(MissingResult, match="Its chapters are 10_your_hospital"):
        notebook.open("03_cross_validation", namespace(run="site"))
    assert notebook.open("10_your_hospital", namespace(run="site"))[0].is_site


def test_a_misspelt_parameter_of_the_reading_room_gives_the_nearest_name():
    cell = 'run = "smoke"\nreader = ""\ntasks = ("covid",)\nallow_back = False'
    enter = "room = widget.enter(**notebook.reading_room(globals()))"
    given = {"run": "smoke", "reader": "R1", "tasks": ["covid"], "allow_back": False}
    found = notebook.reading_room({"In": ["", cell, enter], **given, "room": 1})
    assert found == {**given, "tasks": ("covid",)}
    with pytest.raises(ConfigError, match="unknown key 'reeder'. Did you mean 'reader'"):
        notebook.reading_room({"In": ["", cell, '# Parameters\nreeder = "R1"\n', enter], **given, "reeder": "R1"})
