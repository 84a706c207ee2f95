"""A run of noise for the rooms of the chapters: real files and real (untrained) networks, no DICOM, no training."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from covid3d.cohort.manifest import COLUMNS, read_manifest, write_manifest
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import registry, training
from covid3d.network import scoring as inference
from covid3d.network.weights import save_weights
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import Run, load_profile, open_run

SMALL = {
    "model": {"grid": [16, 32, 32], "width": 0.125},
    "training": {"folds": 2, "epochs": 1},
    "slices": {"size": 32, "slices_per_scan": 2},
    "windows": {"count": 4, "internal_count": 2, "curve_count": 2},
    "prognosis": {"permutations": 19},
    "statistics": {"bootstrap": 99},
}


def small_profile(folder: Path) -> str:
    """Write a profile that is smaller still than smoke; return its path."""
    content = load_profile("smoke").model_dump(mode="json")
    for group, values in SMALL.items():
        content[group] |= values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content | {"name": "tiny"}), encoding="utf-8")
    return str(path)


def scan(patient: str, index: int, role: str, label: int, **values: object) -> dict[str, object]:
    """Return one row of a manifest."""
    suffix = {"rescan": "r", "control": "c"}.get(role, "")
    blank = dict.fromkeys(COLUMNS, "")
    return blank | {
        "scan_id": f"{patient}-{index}{suffix}",
        "patient_id": patient,
        "hospital": patient[0],
        "role": role,
        "label": label,
        "scan_index": index,
        "day": 0 if role in ("development", "external") else "",
        "age": 30 + int(patient[1:]),
        "sex": "FM"[int(patient[1:]) % 2],
        "source": f"dicom/{patient}-{index}{suffix}",
        **values,
    }


def cohort(followed: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return rows of the manifest and of controls: A 8/8, B 4/4, C 3/3; `followed` patients of A and one of C."""
    rows, controls = [], []
    for hospital, count, role in (("A", 8, "development"), ("B", 4, "external"), ("C", 3, "external")):
        for number in range(2 * count):
            patient, label = f"{hospital}{number:03d}", int(number < count)
            if hospital == "A" and number < followed:
                stay = 9 + 2 * number
                later = [(day, stay - day) for day in (0, 4 + number % 3, 8 + number % 3)]
                facts = {"outcome": "discharged", "censored": 0, "ventilated": int(number == 3)}
                for index, (day, left) in enumerate(later):
                    days = {"day": day, "days_to_discharge": left, "days_since_onset": day + 3}
                    rows.append(scan(patient, index, role if index == 0 else "followup", label, **facts, **days))
            elif hospital == "C" and number == 0:
                facts = {"outcome": "in_hospital", "censored": 1}
                rows.append(scan(patient, 0, role, label, **facts, day=0, days_to_discharge=8))
                rows.append(scan(patient, 1, "followup", label, **facts, day=5, days_to_discharge=3))
            else:
                rows.append(scan(patient, 0, role, label, day=0))
    for patient in ("A000", "A001", "B000"):
        controls.append(scan(patient, 0, "rescan", 1, day=0))
    for index, day in ((1, 5), (2, 10)):
        controls.append(scan("A008", index, "control", 0, day=day))
    return rows, controls


def synthetic_run(root: Path, *, followed: int = 6) -> Run:
    """Return a run up to and including Task 1, made of noise; the private root must be COVID3D_ROOT."""
    run = open_run("noise", profile=small_profile(root))
    rows, controls = cohort(followed)
    table, more = pd.DataFrame(rows), pd.DataFrame(controls)
    write_manifest(run.manifest, table)
    write_manifest(run.path("controls.csv"), more)
    store, rng, intake = Store.of(run), np.random.default_rng(1), []
    for row in [*rows, *controls]:
        grid = rng.normal(-700 + 60 * row["label"], 200, run.profile.model.grid).clip(-1024, 400).astype(np.int16)
        file = store.put(str(row["scan_id"]), str(row["scan_id"]), grid)
        ids = {name: row[name] for name in ("scan_id", "patient_id", "hospital", "role", "label", "scan_index")}
        facts = {"n_slices": 200 + len(intake), "rows": 512, "columns": 512, "spacing_z_mm": 1.0, "kvp": 120}
        facts |= {"spacing_y_mm": 0.7, "spacing_x_mm": 0.7}
        intake.append({**ids, "ok": 1, "code": "", "message": "", **facts, "kernel": "B30", "volume": file})
    write_csv(run.intake, pd.DataFrame(intake))
    splits = _splits(table)
    write_csv(run.splits, splits)
    for fold in range(2):
        _network(run, "covid3d", fold, splits, table)
    selection = pd.DataFrame({"fold": [0, 1], "auc_last": [0.5, 0.6], "deployed": [0, 1]})
    folder = run.path("models", "task1", "selection")
    write_csv(folder / "selection.csv", selection)
    steps.mark_done(folder, "selection", "by hand")
    _network(run, "resnet_2d", 1, splits, table)
    return run


def _splits(table: pd.DataFrame) -> pd.DataFrame:
    first = table[table["role"] == "development"]
    rows = [
        (
            "task1",
            fold,
            row.scan_id,
            row.patient_id,
            "validation" if int(str(row.patient_id)[1:]) % 2 == fold else "train",
        )
        for fold in range(2)
        for row in first.itertuples()
    ]
    return pd.DataFrame(rows, columns=["task", "fold", "scan_id", "patient_id", "split"])


def _network(run: Run, name: str, fold: int, splits: pd.DataFrame, table: pd.DataFrame) -> None:
    """Write an untrained network as a finished fold, with its validation scores."""
    model = registry.build(name, run.profile, seed=fold).eval()
    held = splits[(splits["fold"] == fold) & (splits["split"] == "validation")]["scan_id"]
    rows = table[table["scan_id"].isin(held)]
    logits = inference.score(model, Store.of(run).stack(rows["scan_id"]), [nominal_window(run.profile.windows)])[:, 0]
    folder = run.model("task1", name, fold)
    save_weights(folder / "weights.safetensors", model, training.weights_metadata(run, name))
    written = inference.prediction_rows("task1", name, fold, 1, rows, "validation", "nominal", logits)
    write_csv(folder / "predictions.csv", written)
    steps.mark_done(folder, "fold", "by hand")


def write_reader_study(run: Run) -> None:
    """Write calls of two readers: R1 is right with two scans, R2 always says high risk."""
    rows = []
    for number in range(6):
        stay = 9 + 2 * number - (4 + number % 3)
        for reader, task, call in (
            ("R1", "stay_pair", int(stay >= 7)),
            ("R1", "stay_single", number % 2),
            ("R2", "stay_pair", 1),
            ("R2", "stay_single", 1),
        ):
            row = {
                "reader_id": reader,
                "scan_id": f"A{number:03d}-1",
                "prior_scan_id": f"A{number:03d}-0" if task == "stay_pair" else "",
                "task": task,
            }
            rows.append(row | {"call": call, "confidence": 0.5, "order": number, "read_at": ""})
    write_csv(run.path("reader_study.csv"), pd.DataFrame(rows))


def write_masks(run: Run, **masks: np.ndarray) -> None:
    """Write the same true masks, as shares (z, y, x), for every scan of the manifest."""
    folder = run.path("truth", "masks")
    folder.mkdir(parents=True)
    content = {name: (255 * np.asarray(mask, float)).astype(np.uint8) for name, mask in masks.items()}
    for scan_id in read_manifest(run.manifest)["scan_id"]:
        np.savez_compressed(folder / f"{scan_id}.npz", **content)  # type: ignore[arg-type]


def write_truth(run: Run, rows: pd.DataFrame) -> None:
    """Write a truth.csv in which the oracle separates the classes and burden does not."""
    sign = 2 * rows["label"].astype(int) - 1
    table = rows[["scan_id", "patient_id", "hospital", "label"]].assign(
        burden_ml=range(len(rows)), oracle_grid_logit=3.0 * sign
    )
    write_csv(run.path("truth", "truth.csv"), table)
