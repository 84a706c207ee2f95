"""One scan, one number: read, resample, score, explain, and leave the map in the scan's own space. Research use only."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from covid3d.chapters.explanation import signed_map
from covid3d.cohort.scan import SMALL_LUNGS_ML, find_lungs
from covid3d.ct.grid import grid_spacing, resample, resize, to_volume_space
from covid3d.ct.lungs import whole_lung
from covid3d.ct.volume import CTVolume, to_source_axes
from covid3d.ct.windows import Window
from covid3d.dicom.series import read_ct
from covid3d.figures.predict import three_planes
from covid3d.network.given import describe_classifier
from covid3d.network.occlusion import by_pieces
from covid3d.network.registry import build
from covid3d.network.scoring import features as pooled
from covid3d.network.scoring import pick_device, score
from covid3d.network.weights import grid_shape, load_weights
from covid3d.run.errors import ConfigError, WeightsError
from covid3d.run.files import atomic_path, sha256_file, storage_errors, working_folder, write_json
from covid3d.run.profile import Model, Profile, load_profile, profile_names

SIMULATED_WEIGHTS = "trained on simulated scans: this number says nothing about this patient"
RESEARCH = "research use only: not a medical device, not for diagnosis"
PICTURE = (128, 256, 256)
PICTURES = {"map": "planes.png", "evidence": "evidence.png"}
NUMBER = "prediction.json"
WRITTEN = (*(f"{name}.nii.gz" for name in PICTURES), *PICTURES.values(), NUMBER)
"""Every file that a call can write into its folder."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one scan; `probability` is None where it must not be shown."""

    logit: float
    probability: float | None
    window: str
    trained_on: str
    weights_sha256: str
    history: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    withheld: bool = False
    evidence: str = ""

    @property
    def exit_status(self) -> int:
        """Return 0, or 2 when the number was withheld."""
        return 2 if self.withheld else 0

    def lines(self) -> list[str]:
        """Return what the command line prints, warnings first."""
        out = list(self.warnings)
        if self.withheld:
            out.append("no probability is shown; --simulated-weights-ok shows it, for testing the software")
        else:
            out += [f"logit        {self.logit:+.3f}", f"probability  {self.probability:.3f} of COVID-19 pneumonia"]
            out += [f"evidence     {self.evidence}"] if self.evidence else []
        out += [f"window       {self.window} HU", *(f"scan         {line}" for line in self.history)]
        return [*out, *(f"wrote        {path.name}" for path in self.files), RESEARCH]


def predict(
    path: str | Path,
    weights: str | Path,
    *,
    out: Path | None = None,
    features: Path | None = None,
    evidence: bool = False,
    series: int | None = None,
    simulated_weights_ok: bool = False,
    device: str = "auto",
) -> Prediction:
    """Score one scan (DICOM folder or file, NIfTI, NRRD, MHA) with a COVID3D weights file.

    With `out`, writes map.nii.gz (signed map in the scan's own voxels), planes.png and prediction.json there, with `evidence`
    also evidence.nii.gz and evidence.png: what the logit loses when opaque pieces of the lung are made healthy; with
    `features`, an .npz file (see `write_features`); none holds an identifier. A real scan scored by weights made on
    simulated ones is withheld, without files, unless `simulated_weights_ok`. What an earlier call left under these names
    goes first, whatever comes of this one: the files do not tell whose they are. Raises SeriesError for the scan,
    WeightsError for the weights, ConfigError for the device, for the name of `features`, for `evidence` without `out`, or
    where a file would take the scan's place.
    """
    if evidence and out is None:
        raise ConfigError("evidence needs a folder to be written to", where="--evidence", cure="Give --out FOLDER")
    if features is not None and (features.suffix.lower() != ".npz" or features.is_dir()):
        raise ConfigError("features are written to an .npz file", where=str(features), cure="Give --features NAME.npz")
    _clear(Path(path), [*(Path(out) / name for name in WRITTEN if out), *([features] if features else [])])
    metadata = describe_classifier(weights)
    profile = weights_profile(metadata)
    model = build("covid3d", profile)
    load_weights(weights, model)
    model.eval()
    chosen = pick_device(device)
    volume = read_ct(path, series)
    window = weights_window(metadata)
    grid = resample(volume, profile.model.grid)
    logit = float(score(model, grid[None], [window], device=chosen)[0, 0])
    unsafe = metadata["trained_on"] == "phantom" and not volume.simulated
    withheld = unsafe and not simulated_weights_ok
    warnings = _warnings(volume, unsafe)
    size = "x".join(str(count) for count in profile.model.grid)
    prediction = Prediction(
        logit=logit,
        probability=None if withheld else float(1 / (1 + np.exp(-logit))),
        window=window.text,
        trained_on=metadata["trained_on"],
        weights_sha256=sha256_file(weights),
        history=(*volume.history, f"resampled to {size}"),
        warnings=warnings,
        withheld=withheld,
    )
    if withheld:
        return prediction
    files: tuple[Path, ...] = ()
    if out is not None:
        maps = {"map": signed_map(model, grid, window, profile.explain.layer, profile.explain.method, device=chosen)}
        if evidence:
            lung = whole_lung(grid, grid_spacing(volume, grid.shape))
            found = by_pieces(model, grid, lung, window, chosen)
            maps["evidence"], prediction = found.values, replace(prediction, evidence=found.words)
        files = _write(Path(out), prediction, volume, maps, window)
    if features is not None:
        write_features(features, pooled(model, grid[None], window, device=chosen)[0], prediction, profile.model.grid)
        files = (*files, features)
    return replace(prediction, files=files)


def _clear(scan: Path, places: Sequence[Path]) -> None:
    """Remove the files that a call can write, so that none of another scan is taken for this one's.

    Raises ConfigError, before any is removed, where the scan is one of them, and StorageError where one cannot be removed.
    """
    if scan.resolve() in [place.resolve() for place in places]:
        raise ConfigError(
            "a file of the result would take the scan's place", where=scan.name, cure="Give another --out"
        )
    for place in places:
        with storage_errors(place):
            place.unlink(missing_ok=True)


def weights_profile(metadata: dict[str, str]) -> Profile:
    """Return the profile that weights were made with; its grid and width are those in the metadata."""
    known = metadata["profile"] in profile_names()
    profile = load_profile(metadata["profile"] if known else "standard")
    try:
        size = Model(grid=grid_shape(metadata["grid"]), width=float(metadata["width"]), pretrained=False)
    except ValueError:
        raise WeightsError("grid or width in its metadata is no number", cure="Train the weights again") from None
    return profile.model_copy(update={"model": size})


def weights_window(metadata: dict[str, str]) -> Window:
    """Return the window that weights were made with; WeightsError when their metadata hold none."""
    try:
        return Window.parse(metadata["window"])
    except ConfigError as error:
        raise WeightsError(f"in the metadata {error.what}", cure="Train the weights again") from None


def _warnings(volume: CTVolume, unsafe: bool) -> tuple[str, ...]:
    """Return what the reader must know before the number; SeriesError where it is no chest in HU (see `find_lungs`)."""
    warnings = [SIMULATED_WEIGHTS] if unsafe else []
    if volume.simulated:
        warnings.append("this scan is simulated")
    lungs = find_lungs(volume).volume_ml
    if lungs < SMALL_LUNGS_ML:
        warnings.append(f"hardly any lung was found ({lungs:.0f} ml): is this a whole chest?")
    return tuple(warnings)


def _write(
    out: Path, prediction: Prediction, volume: CTVolume, maps: dict[str, np.ndarray], window: Window
) -> tuple[Path, ...]:
    """Write each map with its picture, and the number, all or none; return the paths."""
    with storage_errors(out), working_folder(out / "prediction") as folder:
        made = []
        for name, heat in maps.items():
            made += [folder / f"{name}.nii.gz", folder / PICTURES[name]]
            write_map(made[-2], to_volume_space(heat, volume), volume)
            _draw(made[-1], prediction, volume, heat, window)
        made.append(folder / NUMBER)
        write_json(made[-1], _content(prediction))
        return tuple(path.replace(out / path.name) for path in made)


def _draw(path: Path, prediction: Prediction, volume: CTVolume, heat: np.ndarray, window: Window) -> None:
    """Draw a map, on the model's grid, over the scan in three planes through its peak."""
    shape = tuple(min(own, most) for own, most in zip(volume.shape, PICTURE, strict=True))
    peak = np.unravel_index(int(np.abs(heat).argmax()), heat.shape)
    centre = [int((at + 0.5) * new / old) for at, new, old in zip(peak, shape, heat.shape, strict=True)]
    lines = [f"logit {prediction.logit:+.2f} · {'; '.join(prediction.history)}", *prediction.warnings]
    spacing = grid_spacing(volume, shape)
    figure = three_planes(resample(volume, shape), resize(heat, shape), spacing, centre, window, lines)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


def _content(prediction: Prediction) -> dict[str, Any]:
    """Return what prediction.json holds."""
    content: dict[str, Any] = {
        "logit": round(prediction.logit, 6),
        "probability": None if prediction.probability is None else round(prediction.probability, 6),
        "window": prediction.window,
        "trained_on": prediction.trained_on,
        "weights_sha256": prediction.weights_sha256,
        "scan": list(prediction.history),
        "warnings": [*prediction.warnings, RESEARCH],
    }
    return content | ({"evidence": prediction.evidence} if prediction.evidence else {})


def write_features(path: Path, values: np.ndarray, prediction: Prediction, grid: Sequence[int]) -> None:
    """Write pooled features as .npz without pickles: `features` float32 (C,), `logit`, and what they were made with.

    `grid` is the size (z, y, x) that the scan was resampled to, `window` its level/width in HU; with `weights_sha256`
    they say what another program must repeat to get the same numbers.
    """
    arrays: dict[str, Any] = {
        "features": values.astype(np.float32),
        "logit": np.float32(prediction.logit),
        "window": np.str_(prediction.window),
        "grid": np.array(grid, np.int64),
        "weights_sha256": np.str_(prediction.weights_sha256),
        "trained_on": np.str_(prediction.trained_on),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def write_map(path: Path, values: np.ndarray, volume: CTVolume) -> None:
    """Write an array shaped like `volume.hu` as NIfTI in the voxel grid of the scan's source, without identifiers.

    Values are kept as 16-bit steps of their largest magnitude / 32767 (the header's scl_slope); 0 stays 0.
    """
    array, affine = to_source_axes(values, volume)
    step = float(np.abs(values).max()) / 32767 or 1.0
    steps = np.rint(array.transpose(2, 1, 0) / np.float32(step)).astype(np.int16)
    image = nibabel.Nifti1Image(steps, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_slope_inter(step, 0)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"COVID3D signed map, research use only"
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
