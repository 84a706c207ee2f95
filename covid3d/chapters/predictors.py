"""The predictors of chapter 7 beside the fine-tuned networks: out of fold, on the same patients, by the same rule.

Controls that see no image, measured opacity, and models on the frozen features of Task 1. Whatever is standardised, chosen or
fitted for a patient comes from the patients of other folds. A patient is high risk when the probability is at least one half.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from covid3d.chapters import results, scored
from covid3d.chapters.fine_tuning import COMPONENTS, VARIANTS, head_inputs
from covid3d.chapters.measured import judged
from covid3d.chapters.opacity import MEASURES
from covid3d.comparators import deep_survival
from covid3d.network.scoring import sigmoid
from covid3d.network.tabular import BASELINES, logistic
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.profile import Run
from covid3d.stats import elastic_net, survival
from covid3d.stats.estimate import Estimate

CHANGES = [f"change_{name}" for name in MEASURES]
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "schedule": BASELINES["schedule"],
    "age_sex": BASELINES["age_sex"],
    "opacity_pair": ((*MEASURES, *CHANGES), ()),
    "opacity_single": (tuple(MEASURES), ()),
}
"""Columns of logistic predictors: numbers, categories."""
CONTROLS = ("schedule", "age_sex")
PENALTIES = {"opacity_pair": (10.0, 1.0, 0.1), "opacity_single": (10.0, 1.0, 0.1)}
NAMES = {
    "pair": "two scans",
    "single": "one scan",
    "opacity_pair": "opacity of two scans",
    "opacity_single": "opacity of one scan",
    "cox_pair": "Cox on features of two scans",
    "cox_single": "Cox on features of one scan",
    "deep_pair": "DeepSurv on features of two scans",
    "deep_single": "DeepSurv on features of one scan",
    "schedule": "schedule",
    "age_sex": "age and sex",
}
BARRED, LEAST_AUC, LEAST_OPACITY = ("pair", "single", "opacity_pair", "age_sex"), 0.65, 0.70
"""What the protocol sets bars for, and the bars of two scans: the network's and the measured opacity's."""
Floats = np.ndarray


class Inputs(NamedTuple):
    """What a logistic predictor is fitted to: each fold's (N, K), made without its patients, and the penalties to choose from."""

    folds: list[Floats]
    penalties: tuple[float, ...] = (1.0,)


def with_opacity(pairs: pd.DataFrame, opacity: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with the opacity of the scan and its change since the scan before it; NaN where no lung was found.

    opacity: `MEASURES` indexed by scan_id, of both scans of each pair.
    """
    now, before = (opacity.loc[pairs[name], MEASURES].to_numpy(float) for name in ("scan_id", "prior_scan_id"))
    values = pd.DataFrame(np.hstack([now, now - before]), columns=[*MEASURES, *CHANGES], index=pairs.index)
    return pd.concat([pairs, values], axis=1)


def inputs_of_columns(table: pd.DataFrame, name: str, folds: int) -> Inputs:
    """Return the inputs of a predictor of `COLUMNS`: standardised, blanks as the median, categories one-hot."""
    if name not in COLUMNS:
        raise ConfigError(f"there is no predictor '{name}'", cure=nearest(name, COLUMNS))
    numbers, categories = COLUMNS[name]
    table = table.assign(**{column: table[column].fillna("U").replace("", "U").astype(object) for column in categories})
    table = table.assign(**{column: pd.to_numeric(table[column]).astype(float) for column in numbers})
    found = []
    for fold in range(folds):
        train = table["fold"] != fold
        usable = [column for column in numbers if table.loc[train, column].notna().any()]
        if not train.any() or not (usable or categories):
            found.append(np.empty((len(table), 0)))
            continue
        made = logistic(tuple(usable), categories)[:-1].fit(table[train]).transform(table)
        found.append(np.asarray(made.todense() if hasattr(made, "todense") else made, float))
    return Inputs(found, PENALTIES.get(name, (1.0,)))


def inputs_of_features(table: pd.DataFrame, variant: str, features: Sequence[pd.DataFrame]) -> Inputs:
    """Return the inputs of the heads of a variant: components of each fold's frozen features, as fine-tuning starts from."""
    found = []
    for fold, part in enumerate(features):
        values = head_inputs(variant, part.loc[table["scan_id"]].to_numpy(float))
        train = (table["fold"] != fold).to_numpy()
        some = train.any()
        found.append(survival.principal_components(values, train, COMPONENTS) if some else values[:, :1])
    return Inputs(found)


def logistic_scores(table: pd.DataFrame, inputs: Inputs) -> pd.DataFrame:
    """Return the table with out-of-fold logit, probability and group of ridge logistic regressions; NaN where none can be fitted.

    table: fold, and label (NA = unknown: predicted, never trained on).
    """
    fold, label = table["fold"].to_numpy(int), table["label"].astype("Float64").to_numpy(float, na_value=np.nan)
    logit = np.full(len(table), np.nan)
    for number, values in enumerate(inputs.folds):
        held, train = fold == number, (fold != number) & np.isfinite(label)
        if held.any() and len(np.unique(label[train])) == 2 and values.shape[1]:
            logit[held] = survival.logistic_heads(values, label.astype(np.float64)[None], train, inputs.penalties)[
                0, held
            ]
    return with_groups(table, pd.DataFrame({"scan_id": table["scan_id"], "logit": logit}))


def cox_scores(
    table: pd.DataFrame, inputs: Inputs, limit: float, fit: Callable[..., elastic_net.Scores] = elastic_net.fit_predict
) -> pd.DataFrame:
    """Return the table with out-of-fold probability of a stay of `limit` days or longer by Cox's model, its group and score.

    The column logit is minus the log hazard, beside that of the mean training patient (`elastic_net.Scores`). fit: the
    elastic net, or `deep_survival.fit_predict`.
    """
    fold, days, causes = (table[name].to_numpy() for name in ("fold", "remaining_days", "cause"))
    found = elastic_net.out_of_fold(inputs.folds, fold.astype(int), days.astype(float), causes.astype(int), limit, fit)
    high = np.where(np.isfinite(found.chance), found.chance >= 0.5, np.nan)
    return table.assign(logit=found.score, probability=found.chance, high=high)


def with_groups(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows of a table with logit, probability and group: high = probability of at least one half.

    A scan without a finite score keeps its row, with none of the three, so that `stays.left_out` counts it.
    """
    joined = table[table["test"] == 1].merge(scores[["scan_id", "logit"]], on="scan_id", how="left")
    logit = joined["logit"].where(np.isfinite(joined["logit"].astype(float)))
    return joined.assign(
        logit=logit, probability=sigmoid(logit.to_numpy(float)), high=(logit >= 0).astype(float).where(logit.notna())
    )


def of_folds(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions.csv and history.csv of every fine-tuned network: one row a scan, and one an epoch.

    A scan without a score stays, and `stays.left_out` counts it.
    """
    scores, history = [], []
    for variant, fold in product(VARIANTS, results.folds(run)):
        folder = run.model("prognosis", variant, fold)
        scores.append(scored.read_predictions(folder / "predictions.csv"))
        history.append(pd.read_csv(folder / "history.csv").assign(model=variant, fold=fold))
    return pd.concat(scores, ignore_index=True), pd.concat(history, ignore_index=True)


def network_scores(pairs: pd.DataFrame, scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the test set with the fine-tuned networks' out-of-fold logit, probability and group, two scans first."""
    index, held = pairs[pairs["scan_index"] == 1], scores[scores["split"] == "validation"]
    return {variant: with_groups(index, held[held["model"] == variant]) for variant in VARIANTS[::-1]}


def all_of(
    pairs: pd.DataFrame, scores: pd.DataFrame, features: Mapping[str, Sequence[pd.DataFrame]], limit: float
) -> dict[str, pd.DataFrame]:
    """Return the test set with out-of-fold logit, probability and group of each predictor, in the order of `NAMES`.

    pairs: with opacity. scores: the predictions of the fine-tuned networks. features: those of each fold by variant.
    """
    test = pairs[(pairs["scan_index"] == 1) & (pairs["test"] == 1)].reset_index(drop=True)
    found = network_scores(pairs, scores)
    for name in COLUMNS:
        found[name] = logistic_scores(test, inputs_of_columns(test, name, len(features["pair"])))
    for variant in VARIANTS:
        inputs = inputs_of_features(test, variant, features[variant])
        found[f"cox_{variant}"] = cox_scores(test, inputs, limit)
        found[f"deep_{variant}"] = cox_scores(test, inputs, limit, deep_survival.fit_predict)
    return {name: found[name] for name in NAMES}


def in_words(difference: Estimate) -> str:
    """Return how one predictor stands to another, by the interval of their difference."""
    if not difference.known:
        return "cannot be compared with"
    if difference.has_limits and difference.low > 0:
        return "does better than"
    return "does worse than" if difference.has_limits and difference.high < 0 else "is not told apart from"


def ranking(verdicts: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the predictors that do better than COVID3D, worse, or are not told apart from it."""
    sides = {"does worse than": "better", "does better than": "worse", "is not told apart from": "not told apart"}
    named = {side: [name for name, words in verdicts.items() if words == says] for says, side in sides.items()}
    return {side: ", ".join(names) or "none" for side, names in named.items()}


def bars(side: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the bars of the protocol: what each asks, what was found, and whether it is reached.

    side: a row for each of `NAMES`, with the columns "AUC", "C-index" and "permutation p", Estimates. scores: the tables that
    it judges (`all_of`). Networks that have scored different patients are not set beside each other. The direction is the
    C-index's, which groups that are separated completely have as well; their hazard ratio is not finite.
    """
    wanted = side.loc[[NAMES[name] for name in BARRED]]
    two, one, opaque, chance = wanted["AUC"].tolist()
    judged_on = (frozenset(scores[name].dropna(subset=["high", "remaining_days"])["scan_id"]) for name in VARIANTS)
    if len({*judged_on}) > 1:
        one = Estimate.missing("of other patients than two scans")
    p, order = (wanted[column].tolist()[BARRED.index("opacity_pair")] for column in ("permutation p", "C-index"))
    chance = chance if chance.has_limits or not chance.known else Estimate.missing("no interval")
    rows = [
        ("network, two scans", f"AUC at least {LEAST_AUC:.2f}", two, two.value >= LEAST_AUC),
        ("network, one scan", "AUC below that of two", one, one.value < two.value),
        ("opacity, two scans", f"AUC at least {LEAST_OPACITY:.2f}", opaque, opaque.value >= LEAST_OPACITY),
        (
            "log-rank, opacity of two scans",
            "p by permutation below 0.05, high risk leaves later",
            p,
            p.value < 0.05 and order.value > 0.5,
        ),
        ("age and sex", "the interval of the AUC holds 0.5", chance, chance.low <= 0.5 <= chance.high),
    ]
    found = [(name, asks, value, judged(value, holds)) for name, asks, value, holds in rows]
    return pd.DataFrame(found, columns=["bar", "asks", "found", "verdict"]).set_index("bar")
