"""Figures of 03_cross_validation: learning curves and the AUC of each fold."""

import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREY, ORANGE, SKY, canvas, tidy


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Draw training loss, validation loss and validation AUC over epochs, thin for each fold and thick for their mean.

    Columns fold, epoch, train_loss, validation_loss, validation_auc.
    """
    figure, axes = canvas(1, 2, width=8.5)
    draws = (
        (0, "train_loss", BLUE, "training"),
        (0, "validation_loss", ORANGE, "validation"),
        (1, "validation_auc", ORANGE, "validation"),
    )
    for column, name, colour, label in draws:
        for _, part in curves.groupby("fold"):
            axes[0, column].plot(part["epoch"], part[name], color=colour, alpha=0.25, linewidth=0.8)
        mean = curves.groupby("epoch")[name].mean()
        axes[0, column].plot(mean.index, mean, color=colour, linewidth=2, marker="o", markersize=3, label=label)
    axes[0, 0].legend(frameon=False)
    axes[0, 1].axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    tidy(axes[0, 0], "epoch", "cross-entropy, nats")
    tidy(axes[0, 1], "epoch", "AUC")
    return figure


def fold_aucs(folds: pd.DataFrame, mean: float, oracle: float | None) -> Figure:
    """Draw each fold's AUC at the last and at its best epoch; columns fold, auc_last, auc_best, deployed (0 or 1)."""
    figure, axes = canvas(height=3.2)
    plot = axes[0, 0]
    plot.scatter(
        folds["fold"], folds["auc_best"], facecolors="none", edgecolors=SKY, s=60, label="best epoch (optimistic)"
    )
    plot.scatter(folds["fold"], folds["auc_last"], color=BLUE, s=28, label="last epoch", zorder=3)
    chosen = folds[folds["deployed"] == 1]
    plot.scatter(
        chosen["fold"], chosen["auc_last"], marker="s", s=120, facecolors="none", edgecolors="black", label="deployed"
    )
    plot.axhline(mean, color=BLUE, linewidth=1, linestyle="--", label="mean of the folds")
    plot.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    if oracle is not None and oracle == oracle:
        plot.axhline(oracle, color=GREY, linewidth=1, label="perfect reader of the grid")
    plot.set_xticks(folds["fold"])
    plot.legend(frameon=False, fontsize=8, ncols=2)
    tidy(plot, "fold", "validation AUC")
    return figure
