"""What every compared model must do, on a few small scans; the guide's example is held to the same."""

import numpy as np
import pandas as pd
import pytest

from covid3d.comparators.interface import Cases, Comparator, Explanation, Table
from covid3d.run.errors import ConfigError, WeightsError
from covid3d.run.profile import Profile, load_profile
from covid3d.stats.auc import auc_value

METADATA = {"model": "any", "width": "0.125", "grid": "16,32,32", "hu_clip": "-1024,3071", "window": "-600/1500"}
METADATA |= {"trained_on": "phantom", "profile": "smoke", "manifest_sha256": "0", "commit": "c", "licence": "MIT"}
GRID = (16, 32, 32)


def small_profile() -> Profile:
    """Return `smoke` with a smaller grid and two short epochs."""
    smoke = load_profile("smoke")
    changes = {
        "model": smoke.model.model_copy(update={"grid": GRID}),
        "slices": smoke.slices.model_copy(update={"size": 32, "slices_per_scan": 2, "epochs": 2, "batch_size": 4}),
        "training": smoke.training.model_copy(update={"epochs": 2, "batch_size": 4}),
    }
    return smoke.model_copy(update=changes)


def easy_cases(count: int, seed: int, first: int = 0) -> Cases:
    """Return chests of soft tissue with two lungs; label 1 has denser lungs and older patients."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    grids = rng.normal(-1000, 20, (count, *GRID))
    grids[:, :, 4:28, 3:29] = rng.normal(30, 20, (count, 16, 24, 26))
    for left in (5, 18):
        grids[:, 2:14, 7:25, left : left + 9] = -850 + rng.normal(0, 30, (count, 12, 18, 9))
        grids[:, 2:14, 16:25, left : left + 9] += 350 * labels[:, None, None, None]
    ids = [f"P{first + number:03d}" for number in range(count)]
    facts = pd.DataFrame({"scan_id": ids, "patient_id": ids, "hospital": "A", "label": labels})
    facts = facts.assign(age=40 + 20 * labels + rng.integers(0, 10, count), sex=rng.choice(["F", "M"], count))
    return Cases(grids.clip(-1024, 400).astype(np.int16), np.full((count, 3), (15.0, 11.0, 11.0)), facts)


def part(cases: Cases, rows: slice) -> Cases:
    return Cases(cases.grids[rows], cases.spacing_mm[rows], cases.facts.iloc[rows])


def check_contract(create, folder) -> Comparator:
    """Hold a model to the interface; `create()` returns a new one with the same start. Return it fitted."""
    train, held_out = easy_cases(8, 1), easy_cases(4, 2, first=100)
    model = create()
    fit = model.fit(train, held_out, seed=3)
    scores = model.score(held_out)
    assert scores.shape == (4,) and np.isfinite(scores).all(), "one finite score a patient"
    assert fit.epoch_logits.shape == (len(fit.history), 4)
    assert np.allclose(fit.logits, scores, rtol=1e-4, atol=1e-4)
    assert np.isfinite(fit.history[["train_loss", "validation_loss"]]).all(axis=None)
    if isinstance(model, Table):  # two epochs teach a network nothing yet
        assert auc_value(train.labels, model.score(train)) == 1, "an easy difference is learnt"
    else:
        assert np.abs(create().score(held_out) - fit.epoch_logits).max() > 1e-3, "training moves the scores"

    again = create()
    again.fit(train, held_out, seed=3)
    assert again.score(held_out).tobytes() == scores.tobytes(), "the same seed gives the same bits"

    model.save(folder, METADATA)
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json"}
    loaded = create()
    loaded.load(folder, {"model": "any"})
    assert loaded.score(held_out).tobytes() == scores.tobytes(), "what is saved is what is loaded"
    assert loaded.parameters == model.parameters > 0
    with pytest.raises(WeightsError, match="other"):
        loaded.load(folder, {"model": "other"})
    with pytest.raises(WeightsError):
        loaded.load(folder / "absent", {})

    small = Cases(held_out.grids[:, :8], held_out.spacing_mm, held_out.facts)
    for refused in (model.score, model.explain, lambda cases: model.fit(cases, cases, seed=1)):
        with pytest.raises(ConfigError, match="shape"):
            refused(small)
    check_explanation(model.explain(part(held_out, slice(1, 2))), scores[1])
    return model


def check_explanation(found: Explanation, score: float) -> None:
    """Hold an explanation to its documented form."""
    assert found.logit == pytest.approx(score, rel=1e-3, abs=1e-3)
    assert (found.map is None) != (found.table is None)
    if found.map is not None:
        assert found.map.shape == GRID and found.map.dtype == np.float32
        assert np.isfinite(found.map).all() and found.map.any()
    else:
        assert list(found.table) == ["term", "coefficient", "contribution"]
        assert np.isfinite(found.table[["coefficient", "contribution"]].to_numpy()).all()
