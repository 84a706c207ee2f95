"""Makes over_time.csv and over_time_expected.csv: python scikit_survival.py, in this folder.

Values in the checkout: scikit-survival 0.28.0, which is GPL and needed by nothing here. 60 patients, a third censored, no two
days alike; the chance to be still there is exp(-day * exp(-score) / 10).
"""

import numpy as np
import pandas as pd
from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

rng = np.random.default_rng(7)
score = rng.normal(size=60).round(3)
stay, last = rng.exponential(10 * np.exp(0.6 * score)), rng.exponential(15, 60)
table = pd.DataFrame({"days": np.minimum(stay, last), "event": (stay <= last).astype(int), "score": score})
table.to_csv("over_time.csv", index=False)
days = np.array([2.0, 4.0, 6.0, 9.0])
truth = Surv.from_arrays(table["event"] == 1, table["days"])
chance = np.exp(-days * np.exp(-score[:, None]) / 10)
area, brier = cumulative_dynamic_auc(truth, truth, -score, days)[0], brier_score(truth, truth, chance, days)[1]
whole = integrated_brier_score(truth, truth, chance, days)
pd.DataFrame({"day": days, "auc": area, "brier": brier, "integrated": whole}).to_csv(
    "over_time_expected.csv", index=False
)
