"""Small models on tables: the baselines that a network has to beat."""

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

BASELINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "age_sex": (("age",), ("sex",)),
    "schedule": (("day", "interval_days"), ()),
    "burden": (("burden_ml",), ()),
}


def logistic(numbers: tuple[str, ...], categories: tuple[str, ...] = ()) -> Pipeline:
    """Return an L2 logistic regression on columns: numbers standardised (median for blanks), categories one-hot."""
    parts = []
    if numbers:
        parts.append(("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(numbers)))
    if categories:
        blank = SimpleImputer(strategy="constant", fill_value="U")
        parts.append(("categories", make_pipeline(blank, OneHotEncoder(handle_unknown="ignore")), list(categories)))
    return make_pipeline(ColumnTransformer(parts), LogisticRegression(C=1.0, max_iter=1000))


def baseline(name: str) -> Pipeline:
    """Return a named baseline: age_sex, schedule or burden."""
    return logistic(*BASELINES[name])


def fit_predict(model: Pipeline, train: pd.DataFrame, labels: pd.Series, test: pd.DataFrame) -> pd.Series:
    """Return the probability of label 1 for each row of `test`, after fitting on `train`; index of `test`."""
    model.fit(train.astype(_plain(train)), labels.astype(int))
    return pd.Series(model.predict_proba(test.astype(_plain(test)))[:, 1], index=test.index, name="probability")


def _plain(table: pd.DataFrame) -> dict[str, str]:
    """Return plain types for nullable columns, which scikit-learn does not impute."""
    return {name: "float64" for name in map(str, table) if pd.api.types.is_numeric_dtype(table[name])}
