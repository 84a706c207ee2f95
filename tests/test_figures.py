"""Every figure draws from small tables and arrays, also from empty ones."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from covid3d.figures import cross_validation, data, in_space, model, privacy, prognosis, simulator, style, trajectories
from covid3d.figures import external_tests as external
from covid3d.figures import picture as pictures
from covid3d.figures import reader_comparison as readers
from covid3d.figures.words import seen
from covid3d.show import render
from covid3d.stats.estimate import Estimate

rng = np.random.default_rng(0)
GRID = rng.integers(-1000, 400, (8, 12, 12)).astype(np.int16)
HEAT = rng.normal(size=(8, 12, 12)).astype(np.float32)
SPACING = (5.0, 2.0, 2.0)
POINTS = pd.DataFrame({"hospital": "B", "sensitivity": [80.0, np.nan], "specificity": [70.0, 50.0]})
COURSE = pd.DataFrame(
    {
        "patient_id": ["a", "a", "b"],
        "hospital": ["A", "A", "C"],
        "day": [0, 7, 0],
        "logit": [1.0, 2.0, -1.0],
        "days_to_discharge": [9, 2, 4],
        "censored": [0, 0, 1],
    }
)
ILL = np.zeros(GRID.shape, bool)
ILL[2:6, 3:9, 4:10] = True
PICTURE = pictures.Picture(
    GRID, SPACING, np.ones_like(ILL), ILL, ILL.astype(np.float32), (3, 5, 6), "a lesion", (0.0,) * 3, (1.0,) * 3
)
NOTHING = PICTURE._replace(**{name: np.zeros((0, 0, 0)) for name in ("hu", "lung", "ill", "lesions")})
WINDOW = (-600, 1500)
CASE = pd.DataFrame({"day": [1, 7], "logit": [1.0, -1.0], "burden_fraction": [0.1, 0.3]})
EVIDENCE = pd.DataFrame({"label": [0, 1], "burden_fraction": [0.1, 0.2], "oracle_logit": [-1.0, 2.0]})
CURVE = pd.DataFrame({"day": [0, 5], "s": [0.0, 1.0], "low": [-1.0, 0.0], "high": [1.0, 2.0]})
KM = pd.DataFrame(
    {
        "group": ["high", "high", "low"],
        "day": [0, 9, 0],
        "still_in_hospital": [1, 0.5, 1],
        "low": 0.2,
        "high": 1.0,
        "at_risk": [4, 2, 3],
    }
)
BY_DAY = pd.DataFrame({"day": [3, 4], "AUC": 0.5, "Brier score": 0.2, "without a score": 0.25})
INCIDENCE = pd.DataFrame({"group": ["high", "high", "low"], "day": [0, 3, 0], "cause_1": [0, 0.5, 0], "cause_2": 0.1})
INCIDENCE[[f"cause_{cause} {side}" for cause in (1, 2) for side in ("low", "high")]] = 0.2
STAGES = pd.DataFrame(
    [("stem", "convolution", 8, 4, 6, 6, 90, 0.1), ("head", "fully connected", 1, 1, 1, 1, 9, 0.0)],
    columns=["stage", "kind", "channels", "z", "y", "x", "parameters", "gflop"],
)
FIGURES = {
    "cohort": lambda: data.cohort(pd.DataFrame({"hospital": ["A", "A"], "label": [0, 1], "patients": [3, 4]})),
    "scan_times": lambda: data.scan_times(COURSE),
    "no_scan_times": lambda: data.scan_times(COURSE.head(0)),
    "planes": lambda: data.planes({"A": (GRID, SPACING), "B": (GRID, (1.0, 1.0, 1.0))}, -600, 1500),
    "no_planes": lambda: data.planes({}, -600, 1500),
    "evidence": lambda: simulator.evidence(EVIDENCE),
    "no_evidence": lambda: simulator.evidence(EVIDENCE.head(0)),
    "windows": lambda: model.windows(GRID, GRID < -500, SPACING, {"one": (-600, 1500), "two": (-500, 1200)}),
    "no_windows": lambda: model.windows(GRID[:0], GRID[:0] < 0, SPACING, {"one": (-600, 1500)}),
    "architecture": lambda: model.architecture(STAGES, (8, 12, 12), "block", [[("pool", None), ("unit", 8)]]),
    "costs": lambda: model.costs(STAGES),
    "receptive_fields": lambda: model.receptive_fields(STAGES, GRID, SPACING, (-600, 1500), ["stem"]),
    "first_map": lambda: model.maps(GRID, {"late": HEAT, "flat": 0 * HEAT}, SPACING, (3, 4, 5), (-600, 1500)),
    "learning_curves": lambda: cross_validation.learning_curves(
        pd.DataFrame(
            {
                "fold": [0, 0],
                "epoch": [1, 2],
                "train_loss": [1, 0.5],
                "validation_loss": [1, 0.9],
                "validation_auc": [0.5, np.nan],
            }
        ),
        0.02,
    ),
    "fold_aucs": lambda: cross_validation.fold_aucs(
        pd.DataFrame({"fold": [0, 1], "auc_last": [0.5, 0.6], "auc_best": [0.7, 0.8], "deployed": [0, 1]}), 0.55, None
    ),
    "figure_1": lambda: external.figure_1(PICTURE, HEAT, WINDOW),
    "figure_1_in_space": lambda: in_space.in_space(PICTURE, HEAT),
    "flat_map_in_space": lambda: in_space.in_space(PICTURE._replace(lesions=None), 0 * HEAT),
    "flat_map": lambda: external.figure_1(PICTURE._replace(lesions=None), np.zeros_like(HEAT), WINDOW),
    "side_by_side_maps": lambda: external.side_by_side(PICTURE, {"one": HEAT, "two": -HEAT}, WINDOW),
    "roc": lambda: external.roc(
        pd.DataFrame({"model": "covid3d", "hospital": "B", "false_positive": [0, 1.0], "true_positive": [0, 1.0]}),
        ["B"],
    ),
    "calibration": lambda: external.calibration(
        {"B": {"as scored": pd.DataFrame({"predicted": [0.2], "observed": [0.3], "low": [0.1], "high": [0.5]})}}
    ),
    "no_calibration": lambda: external.calibration({"B": {"as scored": pd.DataFrame()}}),
    "decision_curves": lambda: external.decision_curves(
        {"B": pd.DataFrame({"threshold": [0.2, 0.8], "score": [0.4, 0.1], "all": [0.4, -1.5], "none": [0.0, 0.0]})}
    ),
    "no_decision_curves": lambda: external.decision_curves({}),
    "window_curve": lambda: external.window_curve(
        pd.DataFrame({"hospital": ["B"], "multiple": [1.0], "mean": [0.7], "sd": [np.nan], "lowest": [0.6]})
    ),
    "examples": lambda: external.examples([("TP", PICTURE, HEAT)], WINDOW),
    "no_examples": lambda: external.examples([], WINDOW),
    "reader_shares": lambda: readers.shares(
        pd.DataFrame(
            {
                "rater": ["R1", "R2"],
                "hospital": "B",
                "measure": "sensitivity",
                "share": [Estimate(50, 30, 70), Estimate.missing("no case")],
                "k": [5, 0],
                "n": [10, 0],
                "published": [70.0, np.nan],
            }
        )
    ),
    "reader_roc": lambda: readers.roc_with_readers(
        {("B", name): (np.array([1, 0.5, 0]), np.array([0, 1, 1])) for name in ("COVID3D", "R1")},
        POINTS.assign(rater=["R1", "COVID3D, probability 0.5"]),
        POINTS.assign(rater=["Rad1", "COVID3D"]),
    ),
    "equivalence": lambda: readers.equivalence(
        pd.DataFrame(
            {"difference": [Estimate(3.0)], "90 % from": [-9.0], "90 % to": [12.0]},
            index=pd.MultiIndex.from_tuples([("R1", "B", "sensitivity")]),
        ),
        10,
    ),
    "course": lambda: trajectories.course(COURSE, CURVE, 0.3),
    "peaks": lambda: trajectories.peaks(pd.DataFrame({"days": ["0 to 2"], "patients": [3]})),
    "figure_4": lambda: trajectories.figure_4([PICTURE] * 2, {"H": [HEAT] * 2, "0": [0 * HEAT] * 2}, CASE, 0.5, WINDOW),
    "figure_4_without_truth": lambda: trajectories.figure_4(
        [PICTURE._replace(lesions=None)] * 2, {"H": [HEAT] * 2}, CASE.assign(burden_fraction=np.nan), np.nan, WINDOW
    ),
    "kaplan_meier": lambda: prognosis.kaplan_meier({"two scans": KM}, {"two scans": "p = 0.1"}),
    "no_groups": lambda: prognosis.kaplan_meier({"two scans": KM.head(0)}, {}),
    "side_by_side": lambda: prognosis.side_by_side(
        pd.Series(
            {"two scans": Estimate(0.7, 0.6, 0.8), "one scan": Estimate(0.5), "schedule": Estimate.missing("why")}
        )
    ),
    "no_predictor": lambda: prognosis.side_by_side(pd.Series({"two scans": Estimate.missing("why")})),
    "incidence": lambda: prognosis.incidence(INCIDENCE, {"cause_1": "x", "cause_2": "y"}, KM),
    "over_time": lambda: prognosis.over_time({"two scans": BY_DAY, "nobody": BY_DAY.head(0)}),
    "no_day": lambda: prognosis.over_time({"two scans": BY_DAY.head(0)}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert render(figure, "png").startswith(b"\x89PNG")


def test_the_patients_right_is_on_the_left_and_the_head_is_up():
    grid = np.zeros((4, 4, 4))
    grid[3, 0, 0] = 1  # head, front, right
    _, axes = style.canvas(1, 2)
    axial = style.plane(axes[0, 0], grid, 3, "axial", SPACING)
    coronal = style.plane(axes[0, 1], grid, 0, "coronal", SPACING)
    assert axial.get_array()[0, 0] == 1
    assert axial.origin == "upper"
    assert coronal.get_array()[3, 0] == 1
    assert coronal.origin == "lower"


def test_a_window_maps_its_ends_to_black_and_white():
    assert style.windowed(np.array([-1350, -600, 150]), -600, 1500).tolist() == [0.0, 0.5, 1.0]


def test_planes_keep_the_bodys_proportions():
    _, axes = style.canvas()
    style.plane(axes[0, 0], GRID, 3, "coronal", SPACING)
    assert axes[0, 0].get_aspect() == pytest.approx(5.0 / 2.0)


def _pixels(axes, image=0):
    return np.asarray(axes.images[image].get_array())


def test_the_planes_of_figure_1_go_through_the_lesion_and_show_the_value_that_the_caption_says():
    """Two hot spots, and disease in neither: a mean of coordinates would go through nothing."""
    heat = np.zeros_like(HEAT)
    heat[1, 1, 1], heat[7, 11, 11], heat[PICTURE.at] = 3.0, 4.0, 0.25
    figure = external.figure_1(PICTURE, heat, WINDOW)
    z, y, x = PICTURE.at
    for column, point in enumerate(((y, x), (z, x), (z, y))):
        above, below = figure.axes[column], figure.axes[3 + column]
        assert _pixels(above)[point] == style.windowed(GRID[PICTURE.at], *WINDOW)
        assert _pixels(below, 1)[point] == 0.25
        assert all(any(len(drawn.get_paths()) for drawn in axes.collections) for axes in (above, below)), "the outline"
        (cross,) = [line for line in below.lines if line.get_marker() == "+"]
        assert not cross.get_clip_on(), "whole at an edge"
        assert [*cross.get_xdata(), *cross.get_ydata()] == [
            (7, 11, 11)[axis] for axis in ((2, 1), (2, 0), (1, 0))[column]
        ]
    words = PICTURE.says(heat)
    assert f"{GRID[PICTURE.at]} HU, map +0.25" in words and "peak (+4)" in words
    assert f"{np.hypot(4 * 5.0, np.hypot(6 * 2.0, 5 * 2.0)):.0f} mm from where they meet and in" in words


def _box(z, y, x):
    """A grid of 40 x 60 x 80 voxels, each 3 x 2 x 1.5 mm, that is 1 in one box; head up, back and left at the end."""
    grid = np.zeros((40, 60, 80))
    grid[z, y, x] = 1
    return grid


def test_solids_in_space_are_drawn_where_the_arrays_say():
    """A lesion low in front in the right lung, a hot part high at the back of the left one; brightness falls with the slope."""
    lesion, hot = _box(slice(4, 10), slice(6, 14), slice(10, 20)), _box(slice(30, 36), slice(44, 52), slice(60, 70))
    lung = _box(slice(2, 38), slice(4, 56), slice(5, 75)) > 0
    ill = lesion > 0
    shown = PICTURE._replace(hu=lesion, spacing=(3.0, 2.0, 1.5), lung=lung, ill=ill, lesions=lesion)
    figure = in_space.in_space(shown, hot)
    names = [axes.get_title(loc="left") for axes in figure.axes]
    assert names == ["from the front", "from the left", "from below"]
    middles = {"lesion": ((6.5, 14.5), (6.5, 9.5), (9.5, 14.5)), "hot": ((32.5, 64.5), (32.5, 47.5), (47.5, 64.5))}
    for number, axes in enumerate(figure.axes):
        red, green, blue = np.moveaxis(_pixels(axes), -1, 0)
        drawn = {"lesion": (green > blue + 0.05) & (red < green + 0.1), "hot": red > green + 0.1}
        for name, mask in drawn.items():
            np.testing.assert_allclose(np.argwhere(mask).mean(0), middles[name][number], atol=1, err_msg=name)
        letters = [text.get_text() for text in axes.texts]
        assert letters == (["A", "P"] if number == 1 else ["R", "L"])
        assert axes.images[0].origin == ("upper" if number == 2 else "lower"), "head up, from below the front up"


def test_a_ray_stops_at_the_first_surface_and_a_surface_to_the_light_is_brighter():
    ball = np.linalg.norm((np.indices((40, 60, 80)).T - (20, 30, 40)) * (3, 2, 1.5), axis=-1).T < 25
    for which, bright in in_space.seen(ball, (3.0, 2.0, 1.5)).items():
        area = np.isfinite(bright).sum() * {"coronal": 4.5, "sagittal": 6.0, "axial": 3.0}[which]
        assert area == pytest.approx(np.pi * 25**2, rel=0.03)
        rows, columns = (size // 2 for size in bright.shape)
        upper = bright[:rows, :columns] if which == "axial" else bright[rows:, :columns]
        lower = bright[rows:, columns:] if which == "axial" else bright[:rows, columns:]
        assert np.nanmean(upper) > np.nanmean(lower) + 0.3, "the light comes from above left"
        assert bright[rows, columns] == pytest.approx(0.75, abs=0.03), "straight to the viewer"
    hidden = ball & (np.arange(60)[:, None] > 30)
    front = in_space.seen(hidden, (3.0, 2.0, 1.5))
    assert front["coronal"][20, 40] == pytest.approx(0.75, abs=0.03), "the cut is flat and looks to the front"
    assert front["coronal"][20, 30] == pytest.approx(0.75, abs=0.03)
    assert np.isnan(in_space.seen(0 * ball, (3.0, 2.0, 1.5))["axial"]).all()


def test_the_middle_of_a_mask_lies_in_its_largest_part():
    ring = np.zeros((5, 30, 30), bool)
    ring[1:4, 5:25, 5:25] = True
    ring[1:4, 10:20, 10:20] = False  # the mean of its voxels lies in the hole
    ring[0, 0, 0] = True
    at = pictures.middle_of(ring, SPACING)
    assert ring[at] and at != (0, 0, 0)
    assert at[0] == 2


def test_colours_end_where_the_map_in_the_lungs_ends():
    heat = np.zeros_like(HEAT)
    heat[0], heat[4:] = 100.0, 1.0
    lung = np.zeros(heat.shape, bool)
    lung[4:] = True
    assert pictures.limit_of([PICTURE._replace(lung=lung)], [heat]) == 1.0


def test_the_scans_of_figure_4_lie_at_the_height_of_most_disease():
    """The second scan was taken two slices further up, and is nearly clear."""
    ill, lung, later = np.zeros((12, 6, 6), bool), np.zeros((12, 6, 6), bool), np.zeros((12, 6, 6), bool)
    lung[1:9, 1:5, 1:5], later[3:11, 1:5, 1:5] = True, True
    ill[2, 2, 2], ill[4, 1:5, 1:5] = True, True
    scans = [
        PICTURE._replace(hu=0 * ill, lung=one, ill=bad, lesions=None)
        for one, bad in ((lung, ill), (later, ill & False))
    ]
    assert pictures.levels(scans) == [4, 6]


def test_a_map_is_laid_where_its_voxels_are():
    """The first slices of both lie at one height, and both have one field of view."""
    coarse = np.arange(4.0)[:, None, None] + np.zeros((4, 2, 2))
    fine = PICTURE._replace(hu=np.zeros((8, 4, 4)), first=(0.0, -0.25, -0.25), step=(0.5, 0.5, 0.5))
    assert fine.lay(coarse)[:, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


def test_no_cell_that_was_suppressed_is_drawn():
    assert isinstance(data.cohort(pd.DataFrame({"hospital": [], "label": [], "patients": []})), Figure)


def test_a_picture_of_a_sites_patient_shows_no_more_than_the_lungs():
    first, second = np.zeros((2, 4, 6, 8), bool)
    first[1:3, 2:4, 1:7] = second[2:4, 2:4, 3:5] = True
    grid = np.arange(first.size).reshape(first.shape)
    np.testing.assert_array_equal(grid[privacy.shown_box("site", first)], grid[1:3, 2:4, 1:7])
    np.testing.assert_array_equal(grid[privacy.shown_box("site", np.stack([first, second]))], grid[1:4, 2:4, 1:7])
    assert grid[privacy.shown_box("site", np.zeros_like(first))].size == 0, "no lungs: nothing is shown"
    for cohort in ("phantom", "public"):
        assert grid[privacy.shown_box(cohort, first)].shape == grid.shape


def _words(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_without_lungs_to_show_the_pictures_of_maps_say_so():
    nothing = np.zeros((0, 0, 0))
    assert "no lung was found" in _words(external.figure_1(NOTHING, nothing, WINDOW))
    assert "no case was drawn" in _words(external.examples([("TP", NOTHING, nothing)], WINDOW))
    assert "no lung was found" in _words(trajectories.figure_4([NOTHING], {"H": [nothing]}, CASE.head(1), 0.5, WINDOW))


def test_the_text_alternative_of_a_scan_says_what_lies_over_it_and_which_side_is_where():
    words = seen(external.figure_1(PICTURE, HEAT, WINDOW))
    assert "(1) axial; picture, R on the left and L on the right, outlines." in words
    assert "(6) picture with a map in colours, A on the left and P on the right, outlines, a cross." in words
    assert "(3) from below; picture, R on the left and L on the right." in seen(in_space.in_space(PICTURE, HEAT))


def test_a_plane_says_right_and_left_and_has_a_bar_of_five_centimetres():
    _, axes = style.canvas(1, 2)
    wide = np.zeros((4, 80, 90))
    for plot, which, sides in zip(axes[0], ("axial", "sagittal"), (["R", "L"], ["A", "P"]), strict=True):
        style.plane(plot, wide, 2, which, SPACING)
        assert [text.get_text() for text in plot.texts] == sides
        assert np.ptp(plot.lines[0].get_xdata()) * 2.0 == pytest.approx(50)
