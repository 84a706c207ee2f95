"""What campaigns measured once, at full size, as a reader may see it: stored tables in words, and the bars among them."""

from collections.abc import Callable

import pandas as pd

from covid3d.run import campaigns
from covid3d.run.errors import ConfigError, nearest
from covid3d.stats.auc import mean_interval
from covid3d.stats.estimate import Estimate, number

NOT_MEASURED, REFERENCE = "not measured yet", "it is the reference"
REACHED, NOT_REACHED = "reached", "not reached"
OF_ADDRESSES = {
    " covid plus": ", COVID+",
    " covid minus": ", COVID-",
    r"\b([23])d\b": r"\1D",
    r"\bauc\b": "AUC",
    "covid3d": "COVID3D",
}
"""Words that stored addresses have lost, as a reader knows them."""
OWN = "evidence"
"""The table of chapter 9 whose bars judge a run's own simulated scans, and no network."""


def in_words(name: str, table: pd.DataFrame | None) -> pd.DataFrame:
    """Return a campaign's table in words, or one row that says that it has not been run."""
    if name not in WORDS:
        raise ConfigError(f"there is no campaign '{name}'", cure=nearest(name, WORDS))
    if table is None:
        return pd.DataFrame({"campaign": [name], "result": [NOT_MEASURED]})
    return WORDS[name](table.drop(columns=[*campaigns.STAMP]))


def stored(name: str) -> pd.DataFrame:
    """Return `in_words` of a campaign as it is stored beside the code."""
    return in_words(name, campaigns.read(name))


def bars(stored: dict[str, pd.DataFrame | None]) -> pd.DataFrame:
    """Return every bar of the campaigns: check, asks, in how many of its rows it holds, of how many, verdict."""
    rows = []
    for name, (campaign, asks, judge) in CHECKS.items():
        table = stored[campaign]
        held = pd.Series(dtype=bool) if table is None else judge(table).dropna().astype(bool)
        count = Estimate(int(held.sum())) if len(held) else Estimate.missing(NOT_MEASURED)
        rows.append((name, asks, count, len(held), verdict(bool(held.all())) if len(held) else NOT_MEASURED))
    return pd.DataFrame(rows, columns=["check", "asks", "holds", "of", "verdict"]).set_index("check")


def of_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the campaign seeds but those that judge the simulated scans of the runs (`OWN`)."""
    return table[table["address"].str.partition(".")[0] != OWN]


def verdict(holds: bool) -> str:
    """Return how a bar is said to stand."""
    return REACHED if holds else NOT_REACHED


def judged(found: Estimate, holds: bool) -> str:
    """Return how a bar stands for what was found; what is missing cannot be judged, and says why it is missing."""
    return verdict(bool(holds)) if found.known else found.method


def sources(table: pd.DataFrame) -> list[str]:
    """Return the columns of real scans of the campaign phantom_realism."""
    return list(table.columns[2 : table.columns.get_loc("phantom_min")])


def _realism(table: pd.DataFrame) -> pd.DataFrame:
    bounds = table[["phantom_median", "phantom_min", "phantom_max"]].itertuples(index=False)
    shown = table[["number", "unit", *sources(table)]].assign(number=table["number"].str.replace("_", " "))
    column = f"phantom, {table['phantom_scans'].max()} scans"
    shown[column] = ["{} ({} to {})".format(*map(number, row)) for row in bounds]
    shown["held"] = table["covered"] + table["not_covered"].map(": {}".format, na_action="ignore").fillna("")
    return shown.set_index("number")


def _fairness(table: pd.DataFrame) -> pd.DataFrame:
    sides = _oracle(table).map({True: "at least ", False: "at most "})
    shown = table[["hospital", "group", "classifier", "n"]].rename(columns={"n": "scans"})
    shown["group"] = shown["group"].str.replace("_", " ")
    shown["AUC"] = _estimates(table, "auc", "low", "high", "DeLong on mean out-of-fold scores", remark="nominal")
    shown["limit"] = sides + table["limit"].map(number)
    return shown.assign(verdict=table["verdict"]).set_index(["hospital", "group", "classifier"])


def _oracle(table: pd.DataFrame) -> pd.Series:
    """Return which rows are of the oracle, which must tell the classes."""
    return table["group"].str.startswith("oracle")


def _difficulty(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["setting", "classifier", "hospital", "mix", "n"]].rename(
        columns={"hospital": "scanner", "mix": "case mix", "n": "patients"}
    )
    shown["classifier"] = shown["classifier"].replace("COVID3D", "COVID3D from scratch")
    shown["setting"] = shown["setting"].replace(
        {"drift of +60 HU": "drift up by 60 HU", "drift of -60 HU": "drift down by 60 HU"}
    )
    shown["AUC"] = _estimates(table, "auc", "low", "high", "DeLong")
    changes, none = (
        _estimates(table, "change", "change_low", "change_high", "paired DeLong"),
        Estimate.missing(REFERENCE),
    )
    shown["change"] = changes.where(table["setting"] != "as trained", [none] * len(table))
    return shown.assign(accuracy=table["accuracy"]).set_index(["setting", "classifier"])


def _seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Every bar of the runs of each seed; the same bar has the same address in all of them."""
    words = table["address"].str.rpartition(".")[2].where(table["reached"].notna(), table["address"])
    words = words.where(table["address"].str.partition(".")[0] != OWN, "perfect reader: " + words)
    words = words.str.replace(r"[._]", " ", regex=True).replace(OF_ADDRESSES, regex=True)
    shown = table.assign(bar=words, seed=table["seed"].map("seed {}".format))
    shown["found"] = _estimates(shown, "value", "low", "high")
    wide = shown.pivot_table(index="bar", columns="seed", values="found", aggfunc="first", sort=False)
    wide.insert(0, "asks", shown.groupby("bar")["asks"].first())
    judged = shown.dropna(subset=["reached"]).groupby("bar", sort=False)["reached"].agg(["sum", "size"])
    held = (judged["sum"].astype(int).astype(str) + " of " + judged["size"].astype(str)).rename("reached")
    return wide.join(held).fillna({"asks": "", "reached": ""})


def _scaling(table: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"setting": table["setting"], "patients": table["patients"], "epochs": table["epochs"]})
    shown["AUC"] = table["auc"]
    shown["perfect reader"] = table["oracle"]
    shown["loss at the end"] = table["last_loss"]
    shown["change of the loss at the end"] = table["flatness"]
    shown["lesions in the map against the lung"] = _estimates(table, "map_ratio", "map_low", "map_high")
    shown["best layer for the map"] = table["best_layer"]
    return shown.set_index("setting").T.rename_axis("measure")


def _recipes(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["recipe"]].assign(AUC=_estimates(table, "auc", "auc_low", "auc_high"))
    shown["rank correlation with burden, COVID+"] = _estimates(table, "rho", "rho_low", "rho_high")
    return shown.assign(**{"CPU minutes a fold": table["minutes"]}).set_index("recipe")


def _null_world(table: pd.DataFrame) -> pd.DataFrame:
    ordered = table.sort_values("world", key=lambda world: world != "null", kind="stable")
    shown = ordered[["world", "quantity", "replicates", "rejections"]].copy()
    shown["allowed"] = ordered["allowed"].where(ordered["world"] == "null")
    shown["share or mean"] = _estimates(ordered, "value", "low", "high")
    return shown.assign(p=ordered["p"]).set_index(["world", "quantity"])


def _null_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a quantity over runs, each run being the mean of its folds and hospitals."""
    runs = table.groupby(["quantity", "seed"], sort=False)["value"].mean().dropna()
    parts = runs.rename(lambda name: name.replace("_", " "), level="quantity").groupby("quantity", sort=False)
    found = {"runs": parts.size(), "mean over runs": {name: mean_interval(part) for name, part in parts}}
    return pd.DataFrame(found).rename_axis("quantity")


def _whole_course(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["quantity", "value", "low", "high", "n", "wanted", "verdict"]]
    counted = table["value"].eq(table["value"].round()) & table["low"].isna()
    shown = shown.assign(value=table["value"].astype(object).mask(counted, table["value"].round().astype("Int64")))
    return shown.rename(columns={"n": "patients"}).set_index("quantity")


def _evidence(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["what", "patients", "asked"]].assign(found=_estimates(table, "value", "low", "high"))
    shown["verdict"] = (table["reached"] == 1).map(verdict)
    return shown[["what", "patients", "found", "asked", "verdict"]].set_index("what")


def _boxes(table: pd.DataFrame) -> pd.DataFrame:
    """Return, by evidence, class and reader, the ratio of each seed's run."""
    shown = table.assign(ratio=_estimates(table, "value", "low", "high"), seed=table["seed"].map("seed {}".format))
    keys = ["evidence", "class", "reader"]
    return shown.pivot(index=keys, columns="seed", values="ratio").sort_index(ascending=[False, True, True])


def _depth(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["quantity", "patients"]].assign(found=_estimates(table, "value", "low", "high"), p=table["p"])
    shares = table["quantity"].str.startswith("share")
    shown["found"] = shown["found"].where(~shares, [found.of_unit("%") for found in shown["found"]])
    return shown.set_index("quantity")


def _power(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["bar", "asks", "patients", "draws"]].assign(reached=_estimates(table, "value", "low", "high"))
    return shown.set_index("bar")


def _prognosis(table: pd.DataFrame) -> pd.DataFrame:
    shown = _separation(table)
    shown.insert(0, "phase visible", table["phase_visible"].map("{:g}".format))
    return shown.set_index(["phase visible", "predictor"])


def _gain(table: pd.DataFrame) -> pd.DataFrame:
    return _separation(table).set_index("predictor")


def _separation(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well each predictor tells the stay: predictor, patients, AUC, C-index, hazard ratio and permutation p."""
    shown = table[["predictor", "patients"]].copy()
    for words, name, stem in (
        ("AUC", "auc", "auc"),
        ("C-index", "c_index", "c"),
        ("hazard ratio", "hazard_ratio", "hazard"),
    ):
        limits = f"{stem}_low", f"{stem}_high"
        shown[words] = _estimates(table, name, *limits, "bootstrap over patients", remark="nominal")
    return shown.assign(**{"permutation p": table["p"]}) if "p" in table else shown


def _speed(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "seconds": "seconds",
        "limit_seconds": "at most",
        "peak_mib": "memory, MiB",
        "ratio_to_floor": "the simulator's core seconds over the floor's",
    }
    shown = table[["what", "by", "workers", *names]].rename(columns=names)
    shown["what"] = shown["what"].str.replace("`", "")
    shown["at most"] = shown["at most"].where(table["within_limits"].notna())
    return shown.set_index(["what", "by", "workers"])


def _estimates(
    table: pd.DataFrame, value: str, low: str, high: str, method: str = "", *, remark: str = ""
) -> pd.Series:
    """Return one Estimate a row, from the columns of the value and of its limits; "nominal" for out-of-fold scores."""
    rows = table[[value, low, high]].to_numpy(float).tolist()
    found = [Estimate(a, b, c, method, remark) if pd.notna(a) else None for a, b, c in rows]
    return pd.Series(found, index=table.index, dtype=object)


WORDS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "phantom_realism": _realism,
    "phantom_fairness": _fairness,
    "phantom_difficulty": _difficulty,
    "phantom_evidence": _evidence,
    "seeds": _seeds,
    "scaling": _scaling,
    "recipes": _recipes,
    "null_world": _null_world,
    "null_smoke": _null_runs,
    "phantom_course": _whole_course,
    "phantom_prognosis": _prognosis,
    "phantom_boxes": _boxes,
    "phantom_depth": _depth,
    "phantom_gain": _gain,
    "phantom_power": _power,
    "phantom_speed": _speed,
}
CHECKS: dict[str, tuple[str, str, Callable[[pd.DataFrame], pd.Series]]] = {
    "realism": (
        "phantom_realism",
        "the phantom's range holds the numbers of the real scans",
        lambda table: table["covered"] == "yes",
    ),
    "fairness": (
        "phantom_fairness",
        "what is no disease does not tell the class: upper limit of the AUC at most 0.6",
        lambda table: table.loc[~_oracle(table), "verdict"] == REACHED,
    ),
    "disease": (
        "phantom_fairness",
        "the oracle, who knows the lesions, tells the class",
        lambda table: table.loc[_oracle(table), "verdict"] == REACHED,
    ),
    "evidence": (
        "phantom_evidence",
        "what a scan tells of the class grows with disease",
        lambda table: table["reached"] == 1,
    ),
    "difficulty": (
        "phantom_difficulty",
        "other scanners, case mixes and drift lower the AUC of a fixed classifier",
        lambda table: (table["change"] < 0)[table["setting"] != "as trained"],
    ),
    "gain": (
        "phantom_gain",
        "a second scan tells more of the stay: other patients, heads on the network's features, p below .05",
        lambda table: ((table["auc"] > 0) & (table["p"] < 0.05))[table["predictor"].str.contains(" - ")],
    ),
    "course": (
        "phantom_course",
        "the course is the one that the paper describes",
        lambda table: table["verdict"].map({REACHED: 1.0, NOT_REACHED: 0.0}),
    ),
    "null world": (
        "null_world",
        "tests reject no more often than they may",
        lambda table: (table["rejections"] <= table["allowed"])[table["allowed"].notna() & (table["world"] == "null")],
    ),
    "learnability": (
        "seeds",
        "a trained run of the profile standard reaches its bars, with each seed",
        lambda table: of_networks(table)["reached"].dropna() == 1,
    ),
    "speed": (
        "phantom_speed",
        "a scan and a cohort are made within their limits",
        lambda table: table["within_limits"].dropna() == 1,
    ),
}
"""Every bar of the campaigns: the campaign, what is asked, and which of its rows hold."""
