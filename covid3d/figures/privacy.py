"""What a picture may show of a patient."""

import numpy as np

Box = tuple[slice, slice, slice]
WHOLE: Box = (slice(None), slice(None), slice(None))


def shown_box(cohort: str, lungs: np.ndarray) -> Box:
    """Return what a picture may show of a scan: at a site the box that its lungs fill (nothing without lungs), else all.

    cohort: as `Run.cohort` says; lungs: bool mask (z, y, x), or several in one, (scan, z, y, x).
    """
    if cohort != "site":
        return WHOLE
    mask = np.asarray(lungs.reshape(-1, *lungs.shape[-3:]).any(axis=0))
    extents = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(line[0], line[-1] + 1) if len(line) else slice(0) for line in extents)
    return z, y, x
