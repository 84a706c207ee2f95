"""The perfect reader, searched by boxes: what it sees lies in lesions, and on the side of the class whose sites they have."""

import numpy as np

from benchmarks.phantom_boxes import read_perfectly
from covid3d.phantom import oracle

SPACING = (10.0, 5.0, 5.0)


def chest() -> np.ndarray:
    """Two lungs of a small grid, as shares."""
    lung = np.zeros((24, 64, 64), np.float32)
    lung[4:20, 12:52, 6:28] = lung[4:20, 12:52, 36:58] = 1
    return lung


def test_all_evidence_of_the_perfect_reader_lies_in_the_boxes_that_hold_lesions():
    lung = chest()
    lesion = np.zeros_like(lung)
    lesion[6:12, 40:50, 8:20] = lesion[6:12, 40:50, 44:56] = 1
    found = read_perfectly(lesion, lung, lung > 0.5, SPACING)
    assert found.any() and not found[:, :32].any(), "no box of the front half meets a lesion"
    assert not read_perfectly(np.zeros_like(lung), lung, lung > 0.5, SPACING).any()


def test_without_the_only_lesions_the_reader_has_nothing_to_say():
    """One lesion within each box that meets it: its removal takes the whole logit, the logit of an empty lung taken off."""
    lung = chest()
    lesion = np.zeros_like(lung)
    lesion[7:8, 44:46, 10:12] = 1
    whole = oracle.oracle_logit(oracle.evidence(lesion, lung, SPACING))
    empty = oracle.oracle_logit(oracle.evidence(np.zeros_like(lung), lung, SPACING))
    found = read_perfectly(50 * lesion, lung, lung > 0.5, SPACING)
    assert np.sign(found[7, 45, 11]) == np.sign(
        oracle.oracle_logit(oracle.evidence(50 * lesion, lung, SPACING)) - empty
    )
    assert whole == empty, "so little disease tells nothing"
