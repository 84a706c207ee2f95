"""The scan that a reader can walk through: its volumes as one script, and the page's part with a picture for want of it."""

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from covid3d.chapters.evidence import read_maps
from covid3d.chapters.explanation import Maps, read_map
from covid3d.chapters.pictured import made_on, picture
from covid3d.cohort.intake import read_intake
from covid3d.ct.windows import Window, nominal_window
from covid3d.figures.picture import AXES, SHARPNESS, Picture, draw_plane, limit_of, widths_of
from covid3d.figures.style import canvas
from covid3d.run.files import write_text
from covid3d.run.profile import Run
from covid3d.show import render

SEED = 1  # the notebooks' own, `seed_of_examples`
SOFT_TISSUE, WIDE = Window(40, 400), Window(-250, 1500)
RANGE_HU = -1024, 506
"""What a byte holds in steps of 6 HU: bone is cut off, and the windows lose nothing that an eye sees."""


def write_viewer(run: Run, book: Path) -> None:
    """Write what the viewer shows into staged sources: _generated/viewer.html, _static/scan.js and _static/scan.png.

    The scan is that of Figure 1. A site's patient is not shown.
    """
    fragment = book / "_generated" / "viewer.html"
    explained = run.cohort != "site" and run.path("explain", "summary.csv").is_file()
    scans = Maps.of(run).drawn(SEED).query("case == 'Figure 1'")["scan_id"].tolist() if explained else []
    if not scans:
        write_text(fragment, "<p>There is no scan to walk through in this run.</p>\n")
        return
    shown = picture(run, scans[0], read_intake(run).set_index("scan_id").to_dict("index")[scans[0]])
    maps = {"activation map": read_map(run, scans[0])}
    if run.path("evidence", "maps", f"{scans[0]}.npz").is_file():
        maps["evidence by pieces"] = read_maps(run, scans[0])["pieces"]
    window = nominal_window(run.profile.windows)
    write_files(book / "_static", shown, maps, window)
    write_text(fragment, page_part(f"Scan {scans[0]}. {made_on(run, shown)}.", list(maps), window))


def write_files(folder: Path, shown: Picture, maps: Mapping[str, np.ndarray], window: Window) -> None:
    """Write scan.png and scan.js; maps: those of the network's grid (z, y, x), by name."""
    (folder / "scan.png").write_bytes(render(still(shown, window), "png"))
    write_text(folder / "scan.js", f"window.covid3dScan = {json.dumps(volumes(shown, maps))};\n")


def volumes(shown: Picture, maps: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the scan, its maps and its lesions as gzipped NIfTI in base64, where colours end, and the point to begin at.

    maps: those of the network's grid (z, y, x); they go on every other voxel of the scan.
    """
    z, y, x = (at * size for at, size in zip(shown.at, shown.spacing, strict=True))
    fine, coarse = _affine(shown.spacing), _affine(tuple(2 * size for size in shown.spacing))
    laid = [shown.lay(values) for values in maps.values()]
    lesions = np.zeros(shown.hu.shape) if shown.lesions is None else shown.lesions
    return {
        "ct": _nifti(np.clip(shown.hu, *RANGE_HU), fine, np.uint8),
        "maps": [_nifti(values[::2, ::2, ::2], coarse, np.int16) for values in laid],
        "limits": [limit_of([shown], [values]) for values in laid],
        "lesion": _nifti(lesions, fine, np.uint8),
        "at": [-x, -y, z],
    }


def _affine(spacing: tuple[float, ...]) -> np.ndarray:
    """Return the affine voxel (x, y, z) -> RAS mm of an array (z, y, x) whose rows run to the patient's left and back."""
    return np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])


def _nifti(array: np.ndarray, affine: np.ndarray, kind: type) -> str:
    """Return an array (z, y, x) as gzipped NIfTI in base64, scaled to integers of `kind`; the same for the same array."""
    image = nib.Nifti1Image(np.asarray(array, np.float32).transpose(2, 1, 0), affine, dtype=kind)
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode("ascii")


def still(shown: Picture, window: Window) -> Figure:
    """Draw three planes of a scan in the lung's window and in that of soft tissue."""
    figure, axes = canvas(2, 3, width=7.0, height=4.2, dpi=SHARPNESS, gridspec_kw={"width_ratios": widths_of(shown)})
    for row, (name, one) in enumerate((("lung", window), ("soft tissue", SOFT_TISSUE))):
        for column, which in enumerate(AXES):
            draw_plane(axes[row, column], shown if row == 0 else shown._replace(lesions=None), one, which)
        axes[row, 0].set_ylabel(f"{name}\n{one.level:g}/{one.width:g}", fontsize=10)
    return figure


def page_part(about: str, maps: Sequence[str], window: Window) -> str:
    """Return the page's part: the picture, a button that is there with scripts alone, and the viewer's controls."""
    presets = {"lung": window, "soft tissue": SOFT_TISSUE, "wide": WIDE}
    choices = "".join(
        f"<option value='{w.level:g}/{w.width:g}'>{n} {w.level:g}/{w.width:g}</option>" for n, w in presets.items()
    )
    planes = "".join(f"<option value='{kind}'>{name}</option>" for kind, name in PLANES.items())
    kinds = "".join(f"<option value='{number}'>{name}</option>" for number, name in enumerate(maps))
    words = "Yellow: true lesions; bar: 5 cm. Above the window of the lung, below that of soft tissue."
    seen = f"A simulated chest CT in axial, coronal and sagittal planes, the patient's right on the left. {words}"
    return f"""<div id="viewer" data-from="_static/">
<p>{html.escape(about)}</p>
<figure><img class="dark-light" src="_static/scan.png" alt="{seen}"/><figcaption>{words}</figcaption></figure>
<p><button type="button" class="btn btn-primary" hidden>Walk through this scan</button> <output aria-live="polite"></output></p>
<fieldset hidden><label>window <select name="window">{choices}</select></label>
<label>planes <select name="planes">{planes}</select></label>
<label>map <select name="kind">{kinds}</select></label>
<label>opacity <input name="map" type="range" min="0" max="1" step="0.05" value="0.6"></label>
<label><input name="lesion" type="checkbox"> true lesions</label></fieldset>
<div class="screen" hidden><canvas tabindex="0" aria-label="The scan, three planes and a view in 3D"></canvas></div>
<script defer src="_static/niivue_viewer.js"></script>
</div>
"""


PLANES = {3: "all three", 0: "axial", 1: "coronal", 2: "sagittal", 4: "in 3D"}
"""NiiVue's numbers of its ways to cut a volume."""
