"""A picture of simulated patients at the paper's resolution: book/images/phantom_contact_sheet.jpg.

`python -m benchmarks.contact_sheet [--workers 2]` draws candidates outside the order form, builds them small to learn which
pattern each shows, builds eight scans at full size and reads them as a user would. Rows: a first scan with COVID-19, three
later scans of the same patient, lobar and peribronchovascular pneumonia, a viral look-alike, a nearly clear lung. Columns: axial
planes high, middle and low, coronal, sagittal (lung window -600/1500), and the outline of the true lesions.
"""

import argparse
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from benchmarks import campaigns, measures
from covid3d.cohort.manifest import COLUMNS
from covid3d.dicom.series import read_ct
from covid3d.phantom.build import build
from covid3d.run.files import parallel_map
from covid3d.run.profile import Profile, load_profile

SHEET = campaigns.CHECKOUT / "book" / "images" / "phantom_contact_sheet.jpg"
LARGEST = 900_000
SEED, CANDIDATES, SLICES = 11, 60, 214
LATER = (4, 9, 15)  # days after the first scan
TYPICAL = 0.12  # share of the lung that is lesion
LEVEL, WIDTH = -600, 1500
LESION = (1, 2)  # labels of ground glass and consolidation in the mask
PANEL = 2.2  # inches
MARGIN = 48  # mm shown around the lungs
COLUMNS_SHOWN = ("axial, high", "axial, middle", "axial, low", "coronal", "sagittal", "true lesions")


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    form = candidates()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        firsts = form.loc[form["scan_index"] == 0, "scan_id"].tolist()
        rows = choose(truth_of(folder / "small", form, firsts, size(32, 16)))
        work = partial(panels, folder=folder, form=form)
        drawn = list(parallel_map(work, list(rows.values()), workers=workers, description="drawing scans"))
    save(dict(zip(rows, drawn, strict=True)))


def candidates() -> pd.DataFrame:
    """Return an order form of patients that no cohort has: every second one has COVID-19 and three later scans."""
    rows: list[dict[str, Any]] = []
    for number in range(CANDIDATES):
        positive, patient = 1 - number % 2, f"X{number:03d}"
        known = {
            "patient_id": patient,
            "hospital": "ABC"[number // 2 % 3],
            "label": positive,
            "sex": "FM"[number // 3 % 2],
        }
        for index, day in enumerate((0, *LATER) if positive else (0,)):
            scan = {"scan_id": f"{patient}-{index}", "scan_index": index, "day": day, "age": 30 + 7 * number % 50}
            role = "followup" if index else "development" if known["hospital"] == "A" else "external"
            rows.append({**known, **scan, "role": role, "n_slices": SLICES, "source": f"phantom:{SEED}"})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def size(matrix: int, slices: int | None) -> Profile:
    """Return the paper's profile without rescans and controls at another size."""
    profile = load_profile("paper")
    cohort = profile.cohort.model_copy(update={"rescans": 0, "control_patients": 0})
    phantom = profile.phantom.model_copy(update={"matrix": matrix, "slices": slices})
    return profile.model_copy(update={"cohort": cohort, "phantom": phantom})


def truth_of(folder: Path, form: pd.DataFrame, scans: list[str], profile: Profile) -> pd.DataFrame:
    """Build scans of a form into a folder and return their truth."""
    folder.mkdir()
    form.to_csv(folder / "form.csv", index=False)
    build(folder, manifest=folder / "form.csv", profile=profile, seed=SEED, scans=scans, workers=1)
    return pd.read_csv(folder / "truth" / "truth.csv")


def choose(truth: pd.DataFrame) -> dict[str, str]:
    """Return the scan of each row by its title: of each pattern the one nearest to TYPICAL, and the clearest lung."""
    nearest = truth.assign(away=(truth["burden_fraction"] - TYPICAL).abs()).sort_values("away")
    best = {key: part["scan_id"].iloc[0] for key, part in nearest.groupby(["label", "pattern"])}
    covid = nearest.query("label == 1 and pattern == 'rounded' and hospital == 'A'")["scan_id"].iloc[0]
    later = {f"COVID+, day {day}": covid.replace("-0", f"-{n}") for n, day in enumerate(LATER, 1)}
    others = {"COVID-, lobar": "lobar", "COVID-, peribronchovascular": "branching", "COVID-, viral": "patchy"}
    clear = truth.sort_values("burden_fraction").iloc[0]
    sign = "+" if clear["label"] else "-"
    return {
        "COVID+, first scan": covid,
        **later,
        **{title: best[0, pattern] for title, pattern in others.items()},
        f"COVID{sign}, nearly clear": clear["scan_id"],
    }


def panels(scan_id: str, folder: Path, form: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray | None, float]]:
    """Build and read one scan; return its panels: grey values (rows, columns), mask to outline, height of a pixel in widths."""
    place = folder / scan_id
    truth_of(place, form, [scan_id], size(512, None))
    volume = read_ct(place / "dicom" / scan_id, threads=1)
    lesion = np.isin(labels(place / "truth" / "masks" / f"{scan_id}.nii.gz"), LESION)
    grid, spacing, step = measures.coarse(volume.hu, volume.spacing_mm)
    lung = measures.lungs(grid, spacing)
    pixel = volume.spacing_mm[1]
    z, y, x = (step[axis] * np.flatnonzero(lung.any(axis=o)) for axis, o in enumerate(((1, 2), (0, 2), (0, 1))))
    row, column = (slice(max(0, int(a[0] - MARGIN / pixel)), int(a[-1] + MARGIN / pixel)) for a in (y, x))
    hu, ratio = volume.hu, volume.spacing_mm[0] / pixel
    ill = int(lesion.sum(axis=(1, 2)).argmax())
    axial = [(hu[int(np.quantile(z, share)), row, column], None, 1.0) for share in (0.72, 0.5, 0.28)]
    coronal = hu[::-1, int(np.quantile(y, 0.55)), column]
    sagittal = hu[::-1, row, int(np.quantile(x, 0.25))]
    return [
        *axial,
        (coronal, None, ratio),
        (sagittal, None, ratio),
        (hu[ill, row, column], lesion[ill, row, column], 1.0),
    ]


def labels(path: Path) -> np.ndarray:
    """Return a mask (z, y, x) in the axes of a CTVolume: head up, y to the back, x to the patient's left."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]


def save(rows: dict[str, list[tuple[np.ndarray, np.ndarray | None, float]]]) -> None:
    """Write the sheet as grey JPEG of at most LARGEST bytes."""
    figure = Figure(figsize=(PANEL * len(COLUMNS_SHOWN), PANEL * 0.9 * len(rows)), facecolor="black")
    axes = figure.subplots(len(rows), len(COLUMNS_SHOWN), squeeze=False)
    figure.subplots_adjust(0, 0, 1, 0.98, wspace=0.01, hspace=0.01)
    for number, (line, (title, row)) in enumerate(zip(axes, rows.items(), strict=True)):
        for axis, name, (image, mask, ratio) in zip(line, COLUMNS_SHOWN, row, strict=True):
            axis.axis("off")
            low, high = LEVEL - WIDTH / 2, LEVEL + WIDTH / 2
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=ratio, interpolation="antialiased")
            if mask is not None and mask.any():
                axis.contour(ndimage.gaussian_filter(mask.astype(float), 1), [0.5], colors="white", linewidths=0.7)
            if number == 0:
                axis.set_title(name, color="white", fontsize=9, pad=3)
        line[0].text(0.02, 0.97, title, color="white", fontsize=9, va="top", transform=line[0].transAxes)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="black")
    picture = Image.open(stream).convert("L")
    for quality in range(90, 30, -5):
        packed = io.BytesIO()
        picture.save(packed, "jpeg", quality=quality, optimize=True)
        if packed.tell() <= LARGEST:
            break
    SHEET.write_bytes(packed.getvalue())
    print(f"{SHEET}: {packed.tell():,} bytes, quality {quality}")


if __name__ == "__main__":
    main()
