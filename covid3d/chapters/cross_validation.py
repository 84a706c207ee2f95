"""Chapter 3: ten networks, each judged on the patients that it has not seen.

Headline scores come from the last epoch, whose number the profile fixes. The best validation epoch is a second row,
labelled "the paper's possible rule", with its optimism.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import integrate, stats

from covid3d.chapters import results, scored
from covid3d.chapters.measured import NOT_REACHED, REACHED
from covid3d.cohort.folds import require_certificate
from covid3d.figures import cross_validation as draw
from covid3d.run import campaigns, steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run
from covid3d.stats.auc import (
    auc,
    bootstrap_mean_auc,
    delong_interval,
    hanley_mcneil_standard_error,
    mean_auc,
    mean_fold_auc,
)
from covid3d.stats.estimate import Estimate

FLAT_WITHIN = 0.02
LEAST_LOWER, LEAST_MEAN, LEAST_SKILL = 0.75, 0.85, 0.8
MEAN_AUC = "internal.mean_of_the_folds.auc"
"""The address of the chapter's own result in what other seeds found."""
NOT_JUDGED = "nothing to compare with"


@dataclass(frozen=True)
class CrossValidation:
    """What the folds left, read once; every question of the chapter is asked of these three tables.

    scores: one row a patient of A (scan_id, fold, label, logit), by the fold that never saw the patient, at the last epoch.
    history: one row a fold and epoch (fold, epoch, train_loss, validation_loss, validation_auc).
    selection: one row a fold (fold, auc_last, loss_last, auc_best, epoch_best, deployed).
    """

    run: Run
    scores: pd.DataFrame
    history: pd.DataFrame
    selection: pd.DataFrame

    def folds(self) -> pd.DataFrame:
        """Return one row a fold: patients, COVID+, AUC of the last epoch with its interval, and of the best epoch."""
        rows = [
            {
                "fold": fold,
                "patients": len(table),
                "COVID+": int(table["label"].sum()),
                "AUC": auc(table["label"], table["logit"]),
            }
            for fold, table in self.scores.groupby("fold")
        ]
        chosen = self.selection.rename(columns={"auc_best": "best epoch's AUC", "epoch_best": "best epoch"})
        chosen = chosen[["fold", "loss_last", "best epoch's AUC", "best epoch", "deployed"]]
        table = pd.DataFrame(rows).merge(
            chosen.rename(columns={"loss_last": "validation loss"}), on="fold", validate="1:1"
        )
        return table.assign(deployed=table["deployed"] == 1).set_index("fold")

    def mean(self) -> Estimate:
        """Return the mean of the fold AUCs, the paper's internal number, with Student's t limits over folds."""
        return mean_fold_auc(self.scores)

    def by_fold(self) -> pd.Series:
        """Return the AUC of each fold at the last epoch; NaN for a fold of one class, which counts in no mean."""
        aucs = {fold: float(auc(part["label"], part["logit"])) for fold, part in self.scores.groupby("fold")}
        return pd.Series(aucs, dtype=float).rename_axis("fold")

    def internal(self) -> pd.DataFrame:
        """Return four readings of the internal AUC, the paper's first: reading, AUC, what it is."""
        replicates, seed = self.run.profile.statistics.bootstrap, random_seed(self.run.seed, "internal")
        pooled = delong_interval(self.scores["label"], self.scores["logit"]).noted("nominal")
        best = mean_auc(self.selection["auc_best"].tolist()).noted("the paper's possible rule")
        patients = bootstrap_mean_auc(self.scores, replicates, seed)
        rows = [
            ("mean of the folds", self.mean(), "the paper's number; t interval over folds"),
            ("mean, patients resampled", patients, "the same mean; patients resampled within folds"),
            ("pooled", pooled, "all out-of-fold scores at once; folds share training patients"),
            ("best epoch", best, "optimistic: validation chooses the epoch"),
        ]
        return pd.DataFrame(rows, columns=["reading", "AUC", "what it is"])

    def optimism(self) -> float:
        """Return how much higher the best epoch's AUC is than the last one's, mean over folds."""
        return float(self.selection["auc_best"].mean() - self.by_fold().mean())

    def choices(self) -> pd.DataFrame:
        """Return what choosing flatters: choice, AUC that it reports, above the mean of the folds, by chance alone.

        By chance: the best of as many equally good folds, whose AUCs differ as these do and are normal.
        """
        by_fold, best = self.by_fold(), float(self.selection["auc_best"].mean())
        mean, chance = float(by_fold.mean()), best_of(len(by_fold)) * float(by_fold.std())
        rows = [
            ("best fold, last epoch", by_fold.max(), by_fold.max() - mean, Estimate(chance)),
            ("every fold, best epoch", best, self.optimism(), Estimate.missing("not known")),
        ]
        return pd.DataFrame(rows, columns=["choice", "AUC", "above the mean", "by chance"]).set_index("choice")

    def spread(self) -> dict[str, Any]:
        """Return how the AUC varies from fold to fold, what the patients of a fold alone would give, and what is left.

        Patients alone: the standard error of an AUC of a fold's size at the mean AUC (Hanley & McNeil 1982). What is left is
        the networks' own difference, as variances: 0 where patients explain it all.
        """
        by_fold, sizes = self.by_fold(), self.scores.groupby("fold")["label"].agg(["sum", "size"])
        pairs = sizes[(sizes["sum"] > 0) & (sizes["sum"] < sizes["size"])].to_numpy(int).tolist()
        mean = min(float(by_fold.mean()), 1 - 1e-9)
        errors = [hanley_mcneil_standard_error(mean, positive, size - positive) for positive, size in pairs]
        patients = float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")
        left = np.sqrt(max(0.0, float(by_fold.var()) - patients**2))
        return {
            "between folds": float(by_fold.std()),
            "patients alone": patients,
            "networks": _spread(float(left)),
            "lowest fold": float(by_fold.min()),
            "highest fold": float(by_fold.max()),
        }

    def seeds(self) -> dict[str, Any]:
        """Return the AUC's SD between folds and between seeds (patients, folds and starts drawn anew), from the campaign.

        Rows of this profile in benchmarks/results/seeds.csv; with one seed the two cannot be told apart.
        """
        stored, folds = campaigns.read("seeds"), self.run.profile.training.folds
        table = pd.DataFrame({"profile": [], "address": []}) if stored is None else stored
        table = table[(table["profile"] == self.run.profile.name) & (table["address"] == MEAN_AUC)]
        if len(table) < 2 or folds < 2:
            apart = Estimate.missing(f"{len(table)} seed{'s' * (len(table) != 1)}: cannot be told apart")
            return {"seeds": len(table), "between seeds": apart, "between folds of a seed": apart}
        half = (table["high"] - table["low"]) / 2
        variances = (half / stats.t.ppf(0.975, folds - 1)) ** 2 * folds
        seed, fold = variance_components(table["value"].to_numpy(), variances.to_numpy(), folds)
        return {
            "seeds": len(table),
            "between seeds": _spread(float(np.sqrt(seed))),
            "between folds of a seed": Estimate(float(np.sqrt(fold))),
        }

    def training(self) -> dict[str, Any]:
        """Return how the training ended: change of the loss over its last fifth, and whether it is flat."""
        epochs = self.history.groupby("fold")["epoch"].nunique()
        logged = (epochs == self.run.epochs).all() and self.history["validation_loss"].notna().all()
        change = flatness(self.history)
        return {
            "folds": len(self.selection),
            "validated every epoch": bool(logged),
            "change of the loss": change,
            "loss is flat": bool(abs(change) <= FLAT_WITHIN),
            "optimism of the best epoch": self.optimism(),
        }

    def deployed(self) -> dict[str, Any]:
        """Return the fold that is deployed to B and C, and whether it is the one that the paper's rule takes."""
        chosen = self.selection[self.selection["deployed"] == 1]
        best = len(chosen) == 1 and chosen["auc_last"].iloc[0] == self.selection["auc_last"].max()
        return {"fold": int(chosen["fold"].iloc[0]), "has the highest AUC": bool(best)}

    def bars(self, skill: Estimate, blind: pd.Series) -> pd.DataFrame:
        """Return the protocol's bars, fixed before any run: bar, asks, found, reached.

        blind: Estimates of the models that see no image.
        """
        mean, limit = self.mean(), "lower limit of the mean fold AUC"
        lower = Estimate(mean.low, method="the folds give no interval", remark="lower limit")
        asks = [("above chance", f"{limit} > {LEAST_LOWER:.2f}", lower, LEAST_LOWER)]
        for name, found in blind.items():
            alone = f"{name} alone: {Estimate(found.value, method=found.method).short()}"
            asks.append((f"above {name}", f"{limit} > {name} alone", lower.noted(f"lower limit; {alone}"), found.value))
        asks += [("mean of the folds", f"mean fold AUC at least {LEAST_MEAN:.2f}", Estimate(mean.value), LEAST_MEAN)]
        way = f"at least {LEAST_SKILL} of the way from chance to the perfect reader"
        asks += [("skill", way, skill, LEAST_SKILL)]
        least = ("mean of the folds", "skill")
        rows: list[tuple[str, str, Estimate | None, str]]
        rows = [(name, words, found, _judged(found.value, bar, name in least)) for name, words, found, bar in asks]
        flat = self.training()
        rows.append(
            (
                "flat loss",
                f"training loss changes by at most {FLAT_WITHIN} of itself over its last fifth",
                Estimate(flat["change of the loss"]),
                REACHED if flat["loss is flat"] else NOT_REACHED,
            )
        )
        whole = "the folds give no interval"
        if rows[0][-1] != NOT_JUDGED:
            missed = [row[0] for row in rows if row[-1] == NOT_REACHED]
            whole = f"{NOT_REACHED}: {', '.join(missed)}" if missed else REACHED
        rows.append(("all of them", "every bar that can be judged", None, whole))
        return pd.DataFrame(rows, columns=["bar", "asks", "found", "reached"])

    def plot_learning_curves(self) -> Figure:
        """Return loss and AUC by epoch, and the end of the training loss beside what counts as flat."""
        return draw.learning_curves(self.history, FLAT_WITHIN)

    def plot_folds(self, ceiling: Estimate) -> Figure:
        """Return the AUC of each fold, the deployed one marked, with the mean and the perfect reader."""
        return draw.fold_aucs(self.selection, self.mean().value, ceiling.value if ceiling.known else None)


def _spread(left: float) -> Estimate:
    """Return the standard deviation that is left when another is taken off; none is left where chance alone would give more."""
    return Estimate(left, remark="" if left else "no more than by chance")


def _judged(found: float, bar: float, or_equal: bool) -> str:
    """Return whether a number is above a bar; what is missing on either side cannot be judged."""
    if not (np.isfinite(found) and np.isfinite(bar)):
        return NOT_JUDGED
    return REACHED if (found >= bar if or_equal else found > bar) else NOT_REACHED


def load(run: Run) -> CrossValidation:
    """Return the chapter's results, training the folds that are missing.

    Raises MissingResult, with the command to run, where `run.compute` is False and something is missing; ManifestError
    where the leakage certificate has not passed.
    """
    steps.ensure_needs(run, "03_cross_validation")
    require_certificate(run)
    scores = scored.usable(results.out_of_fold(run))
    scores = scores[["scan_id", "patient_id", "fold", "label", "logit"]]
    return CrossValidation(run, scores, results.learning_curves(run), results.selection(run))


def flatness(curves: pd.DataFrame) -> float:
    """Return the relative change of the mean training loss from the second last to the last fifth of the epochs.

    -0.1 is 10 % lower; the loss counts as flat within 2 %. With fewer than ten epochs a fifth is one epoch.
    """
    loss = curves.groupby("epoch")["train_loss"].mean().sort_index().to_numpy()
    fifth = max(len(loss) // 5, 1)
    before = loss[-2 * fifth : -fifth] if len(loss) >= 2 * fifth else loss[:1]
    return float(loss[-fifth:].mean() / before.mean() - 1)


def best_of(count: int) -> float:
    """Return the expected largest of `count` standard normal values (Tippett, Biometrika 1925)."""
    density = integrate.quad(lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1), -10, 10)
    return float(density[0])


def variance_components(means: np.ndarray, variances: np.ndarray, size: int) -> tuple[float, float]:
    """Return the variance between groups and that within, of equal groups' means and variances (one-way random effects).

    Moments of the analysis of variance (Searle, Casella & McCulloch, Variance Components 1992, section 3.5), at least 0.
    """
    within = float(np.mean(variances))
    return max(0.0, float(np.var(means, ddof=1)) - within / size), within
