"""What each voxel of a simulated scan truly is: a label map (NIfTI) of the scan's own size, and shares on the model's grid."""

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from covid3d.phantom.scanner import Acquisition
from covid3d.run.files import atomic_path

Array = np.ndarray[Any, Any]
NOTHING, GROUND_GLASS, CONSOLIDATION, EFFUSION, HEALTHY_LUNG = 0, 1, 2, 3, 10
MEANING = "0 no lung, 1 ground glass, 2 consolidation, 3 effusion, 10 healthy lung"
GZIP_START = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255])  # deflate, no file name, no time, fastest, unknown system


def label_slab(lung: Array, ground_glass: Array, consolidation: Array, effusion: Array) -> Array:
    """Return the labels, uint8, of a slab: the share of each voxel that is lung, and the shares of the lung that are ill.

    A voxel with half of lung or more is healthy lung unless half of that is ill; then it is whatever fills most of it.
    """
    filled = ground_glass + consolidation + effusion >= 0.5
    labels = np.where(filled, np.uint8(GROUND_GLASS), np.uint8(HEALTHY_LUNG))
    labels[filled & (consolidation > ground_glass)] = CONSOLIDATION
    labels[filled & (effusion > np.maximum(ground_glass, consolidation))] = EFFUSION
    labels[lung < 0.5] = NOTHING
    return labels


class LabelMap:
    """The labels of one scan, gathered slab by slab: one byte a voxel, however many scans are built."""

    def __init__(self, acquisition: Acquisition) -> None:
        self.acquisition = acquisition
        self.labels = np.zeros(acquisition.shape, np.uint8)

    def add(self, first: int, labels: Array) -> None:
        """Take in the labels of slices `first`, `first` + 1, …"""
        self.labels[first : first + len(labels)] = labels

    def write(self, path: Path) -> None:
        """Write the map as .nii.gz with the geometry of the DICOM series; the same labels give the same bytes."""
        image = nib.Nifti1Image(self.labels.transpose(2, 1, 0), ras_affine(self.acquisition), dtype=np.uint8)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = MEANING.encode()
        image.header["cal_max"] = HEALTHY_LUNG
        image.header["vox_offset"] = len(image.header.binaryblock) + 4  # no extension follows
        with atomic_path(path) as temporary:
            temporary.write_bytes(_gzip(image.header.binaryblock + bytes(4), self.labels))


def ras_affine(acquisition: Acquisition) -> Array:
    """Return the affine voxel (x, y, z, 1) -> RAS mm of a scan, as NIfTI counts: x to the right, y to the front."""
    z, y, x = acquisition.spacing_mm
    affine = np.diag([-x, -y, z, 1.0])
    origin_z, origin_y, origin_x = acquisition.origin_mm
    affine[:3, 3] = -origin_x, -origin_y, origin_z
    return affine


def _gzip(*parts: Any) -> bytes:
    """Return the parts as one gzip file without name and time (RFC 1952)."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed, check, size = [GZIP_START], 0, 0
    for part in parts:
        view = memoryview(part).cast("B")
        packed.append(packer.compress(view))
        check, size = zlib.crc32(view, check), size + len(view)
    packed += [packer.flush(), check.to_bytes(4, "little"), (size % 2**32).to_bytes(4, "little")]
    return b"".join(packed)


def write_shares(path: Path, lesion: Array, lung: Array) -> None:
    """Write the shares (0 to 1) of lesion and lung on the model's grid as bytes, 255 = fully."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, lesion=as_bytes(lesion), lung=as_bytes(lung))


def as_bytes(share: Array) -> Array:
    """Return shares in [0, 1] as uint8, 255 = fully."""
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
