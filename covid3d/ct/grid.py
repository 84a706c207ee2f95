"""Resampling of a whole scan to the model's grid and of maps back to the scan, with exact affines.

Both are separable products with banded matrices. Shrinking uses a triangle as wide as two output voxels (the usual
anti-aliased linear filter), so that noise is averaged and not picked; growing is plain linear interpolation.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import sparse

from covid3d.ct.volume import CTVolume


def axis_weights(size_in: int, size_out: int) -> sparse.csr_matrix:
    """Return the (size_out, size_in) float32 weights of one axis; each row sums to 1.

    Voxels are cells: output cell i covers input cells i*scale … (i+1)*scale, scale = size_in / size_out.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    reach = int(np.ceil(support)) + 1
    columns = np.floor(centres)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = np.clip(1 - np.abs(columns - centres[:, None]) / support, 0, None)
    if scale < 1:  # the edge voxel is repeated outwards
        columns = np.clip(columns, 0, size_in - 1)
    else:
        weights[(columns < 0) | (columns >= size_in)] = 0
        columns = np.clip(columns, 0, size_in - 1)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(size_out), columns.shape[1])
    matrix = sparse.csr_matrix((weights.ravel(), (rows, columns.ravel())), shape=(size_out, size_in), dtype=np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def resample(volume: CTVolume, shape: Sequence[int], *, threads: int = 1) -> np.ndarray:
    """Return the whole scan on a grid of `shape` (z, y, x), int16 HU, anti-aliased.

    The field of view is kept and each axis stretched on its own, as the paper does.
    """
    return np.rint(resize(volume.hu, shape, threads=threads)).astype(np.int16)


def resize(array: np.ndarray, shape: Sequence[int], *, threads: int = 1) -> np.ndarray:
    """Return an array (z, y, x) resized to `shape`, float32; slices are taken one by one to spare memory.

    `threads` share the output's slices; the result does not depend on their number.
    """
    if array.ndim != 3 or len(shape) != 3 or min(*shape, *array.shape) < 1:
        raise ValueError(f"resize takes (z, y, x) arrays and shapes, not {array.shape} and {tuple(shape)}")
    along_z, along_y, along_x = (axis_weights(old, new) for old, new in zip(array.shape, shape, strict=True))
    out = np.zeros(tuple(shape), dtype=np.float32)
    ends = np.linspace(0, shape[0], max(1, min(threads, shape[0])) + 1).astype(int)

    def fill(first: int, last: int) -> None:
        columns = along_z[first:last].tocsc()
        for index in range(array.shape[0]):
            begin, end = columns.indptr[index : index + 2]
            if begin == end:
                continue
            plane = _plane(array[index], along_y, along_x)
            for row, weight in zip(columns.indices[begin:end], columns.data[begin:end], strict=True):
                out[first + row] += weight * plane

    with ThreadPoolExecutor(len(ends) - 1) as pool:
        list(pool.map(fill, ends[:-1], ends[1:]))
    return out


def _plane(image: np.ndarray, along_y: sparse.csr_matrix, along_x: sparse.csr_matrix) -> np.ndarray:
    """Return one slice (y, x) resized in its plane, float32."""
    rows = along_y @ image.astype(np.float32, copy=False)
    return np.ascontiguousarray((along_x @ np.ascontiguousarray(rows.T)).T)


def grid_spacing(volume: CTVolume, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the voxel size (z, y, x) in mm of the scan resampled to `shape`."""
    z, y, x = (step * old / new for step, old, new in zip(volume.spacing_mm, volume.shape, shape, strict=True))
    return (z, y, x)


def to_volume_space(array_on_grid: np.ndarray, volume: CTVolume) -> np.ndarray:
    """Return a map on the grid (z, y, x) interpolated to the scan's own voxels, float32 shaped like `volume.hu`."""
    return resize(array_on_grid, volume.shape)
