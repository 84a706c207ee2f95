"""Small models on tables: the baselines that a network has to beat."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from covid3d.run.errors import Covid3DError

BASELINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "age_sex": (("age",), ("sex",)),
    "schedule": (("day", "interval_days"), ()),
}
METADATA = (("age", "n_slices", "spacing_z_mm", "spacing_y_mm", "kvp"), ("sex", "kernel", "manufacturer"))
"""Columns of manifest and intake that tell how a scan was made and of whom: numbers, categories."""
TERM_COLUMNS = ["column", "category", "fill", "centre", "scale", "coefficient"]
UNKNOWN = "U"


class Linear(NamedTuple):
    """A fitted logistic regression as plain numbers, which can be stored and read exactly.

    terms: one row a term, TERM_COLUMNS. A number x adds coefficient * (x - centre) / scale, a blank counting as `fill`;
    a category adds its coefficient to the rows that are in it (`category` is None for numbers).
    """

    terms: pd.DataFrame
    intercept: float


def logistic(numbers: tuple[str, ...], categories: tuple[str, ...] = ()) -> Pipeline:
    """Return an L2 logistic regression on columns: numbers standardised (median for blanks), categories one-hot."""
    parts = []
    if numbers:
        parts.append(("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(numbers)))
    if categories:
        blank = SimpleImputer(strategy="constant", fill_value=UNKNOWN)
        parts.append(("categories", make_pipeline(blank, OneHotEncoder(handle_unknown="ignore")), list(categories)))
    return make_pipeline(ColumnTransformer(parts), LogisticRegression(C=1.0, max_iter=1000))


def fit_predict(model: Pipeline, train: pd.DataFrame, labels: pd.Series, test: pd.DataFrame) -> pd.Series:
    """Return the probability of label 1 for each row of `test`, after fitting on `train`; index of `test`."""
    model.fit(train.astype(_plain(train)), labels.astype(int))
    return pd.Series(model.predict_proba(test.astype(_plain(test)))[:, 1], index=test.index, name="probability")


def _plain(table: pd.DataFrame) -> dict[str, str]:
    """Return plain types for nullable columns, which scikit-learn does not impute."""
    return {name: "float64" for name in map(str, table) if pd.api.types.is_numeric_dtype(table[name])}


def fit_linear(table: pd.DataFrame, labels: np.ndarray) -> Linear:
    """Return `logistic` fitted to all columns that vary: numeric ones as numbers, others as categories.

    Raises Covid3DError when no column varies.
    """
    varying = [str(name) for name in table if table[name].nunique() > 1]
    numbers = tuple(name for name in varying if pd.api.types.is_numeric_dtype(table[name]))
    categories = tuple(name for name in varying if name not in numbers)
    if not varying:
        raise Covid3DError("no column varies", where=", ".join(map(str, table)), cure="Give columns that differ")
    plain = table[varying].assign(**{name: _texts(table[name]) for name in categories})
    model = logistic(numbers, categories).fit(plain.astype(_plain(plain)), labels)
    terms: list[tuple] = []
    columns = model[0].named_transformers_
    if numbers:
        fill, scaler = columns["numbers"][0].statistics_, columns["numbers"][1]
        terms += list(zip(numbers, [None] * len(numbers), fill, scaler.mean_, scaler.scale_, strict=True))
    if categories:
        for name, values in zip(categories, columns["categories"][1].categories_, strict=True):
            terms += [(name, str(value), 0.0, 0.0, 1.0) for value in values]
    rows = [(*term, weight) for term, weight in zip(terms, model[1].coef_[0], strict=True)]
    return Linear(pd.DataFrame(rows, columns=TERM_COLUMNS), float(model[1].intercept_[0]))


def contributions(model: Linear, table: pd.DataFrame) -> pd.DataFrame:
    """Return what each term adds to the logit of each row, one column a term; the rest of the logit is the intercept.

    Raises Covid3DError when a column of the model is missing.
    """
    lacking = sorted(set(model.terms["column"]) - set(table))
    if lacking:
        raise Covid3DError(f"column '{lacking[0]}' is missing", cure="Give the columns that the model was fitted to")
    found = {}
    for column, category, fill, centre, scale, coefficient in model.terms.itertuples(index=False):
        if category is None:
            share = (table[column].astype("float64").fillna(fill) - centre) / scale
            found[column] = coefficient * share
        else:
            found[f"{column} = {category}"] = coefficient * (_texts(table[column]) == category).astype("float64")
    return pd.DataFrame(found, index=table.index)


def _texts(column: pd.Series) -> pd.Series:
    """Return categories as text, blanks as 'U'."""
    return column.astype(object).where(column.notna(), UNKNOWN).astype(str)
