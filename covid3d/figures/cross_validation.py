"""Figures of 03_cross_validation: learning curves and the AUC of each fold."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from covid3d.figures.style import BLUE, GREY, ORANGE, SKY, canvas, tidy


def learning_curves(curves: pd.DataFrame, flat_within: float) -> Figure:
    """Draw loss (log scale), the end of the training loss, and validation AUC over epochs; thin: folds, thick: their mean.

    Columns fold, epoch, train_loss, validation_loss, validation_auc. The second panel shows the last two fifths of the
    epochs: the mean loss over that of the fifth before, and the band that counts as flat.
    """
    figure, axes = canvas(1, 3, width=11.5)
    draws = (
        (0, "train_loss", BLUE, "training"),
        (0, "validation_loss", ORANGE, "validation"),
        (2, "validation_auc", ORANGE, "validation"),
    )
    for column, name, colour, label in draws:
        for _, part in curves.groupby("fold"):
            axes[0, column].plot(part["epoch"], part[name], color=colour, alpha=0.25, linewidth=0.8)
        mean = curves.groupby("epoch")[name].mean()
        axes[0, column].plot(mean.index, mean, color=colour, linewidth=2, marker="o", markersize=3, label=label)
    axes[0, 0].set_yscale("log")
    for axis in (axes[0, 0].yaxis.set_major_formatter, axes[0, 0].yaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0, 0].legend(frameon=False)
    axes[0, 2].axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    _last_fifths(axes[0, 1], curves, flat_within)
    tidy(axes[0, 0], "epoch", "cross-entropy, nats (log scale)")
    tidy(axes[0, 1], "epoch", "training loss, the fifth before = 1", "the last two fifths")
    tidy(axes[0, 2], "epoch", "AUC")
    return figure


def _last_fifths(axes: Axes, curves: pd.DataFrame, flat_within: float) -> None:
    """Draw the mean training loss of the last two fifths of the epochs over the mean of the first of them."""
    loss = curves.groupby("epoch")["train_loss"].mean().sort_index()
    fifth = max(len(loss) // 5, 1)
    end = loss.tail(2 * fifth)
    before, after = end.iloc[: len(end) - fifth], end.tail(fifth)
    start = before.mean() if len(before) else after.mean()
    axes.axhspan(1 - flat_within, 1 + flat_within, color=GREY, alpha=0.2, label="counts as flat")
    axes.plot(end.index, end / start, color=BLUE, marker="o", markersize=3)
    axes.hlines(
        after.mean() / start, after.index[0], after.index[-1], color=BLUE, linewidth=3, label="mean, last fifth"
    )
    axes.set_xticks(end.index)
    axes.margins(y=0.2)
    axes.legend(frameon=False, fontsize=8)


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
    plot.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    tidy(plot, "fold", "validation AUC")
    return figure
