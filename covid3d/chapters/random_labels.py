"""The network that could learn nothing: trained as the deployed fold was, on labels that know nothing of the patients.

Paper:   Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, arXiv:1810.03292 (data randomisation)

Same patients, same start, same order of scans, same recipe. What its maps show was in the image, or in the trunk that it
started from; what only the maps of the deployed network show was learned from labels.
"""

from pathlib import Path

import numpy as np

from covid3d.chapters import results, task1
from covid3d.chapters.results import RANDOM_LABELS, THREE_D
from covid3d.run import steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run


def ensure_random_labels(run: Run) -> Path:
    """Return the folder of the deployed fold's network trained on permuted labels, training it when needed.

    It holds weights.safetensors and history.csv, whose validation columns ask for the true labels. Its scores stand in no
    table of predictions.
    """
    fold = results.deployed_fold(run)
    folder = run.model(RANDOM_LABELS, THREE_D, fold)
    inputs = {"deployed": steps.content(run.model(results.TASK, THREE_D, fold)), "fold": fold}
    return steps.ensure(run, "random_labels", folder, inputs, lambda out: _train(run, fold, out))


def permuted(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return labels (N,) permuted within strata of the true label: as many are 1 as before, and as large a share of each class.

    A plain permutation of few labels still agrees with the true ones by chance.

    >>> drawn = permuted(np.array([1, 1, 1, 1, 0, 0, 0, 0]), np.random.default_rng(1))
    >>> int(drawn[:4].sum()), int(drawn[4:].sum())
    (2, 2)
    """
    count, ones = len(labels), int(labels.sum())
    order = rng.permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    drawn = np.empty(count, np.int64)
    drawn[order] = np.diff((np.arange(count + 1) * ones + rng.integers(count)) // count)  # systematic sampling
    return drawn


def _train(run: Run, fold: int, folder: Path) -> None:
    train, validation = task1.split_of(run, fold)
    labels = permuted(train["label"].to_numpy(int), np.random.default_rng(random_seed(run.seed, RANDOM_LABELS, fold)))
    plan = task1.plan_of(run, THREE_D)
    task1.train_fold(run, THREE_D, fold, plan, train.assign(label=labels), validation, folder, RANDOM_LABELS)
    (folder / "predictions.csv").unlink()
