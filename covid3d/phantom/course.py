"""Course of one pneumonia: burden rises, peaks 10 to 15 days after onset and clears; discharge follows clearance.

Both classes share every distribution in this file, so that amount and brightness never tell the class.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from covid3d.run.files import random_seed

CLEARED = 0.02  # share of the lung below which a patient counts as cleared
HIGHEST = 0.40
MILD, MILD_PEAK = 0.04, 0.006  # share of patients whose lungs stay nearly clear, and their median peak


@dataclass(frozen=True)
class Course:
    """Course of one patient; times in days since onset, burdens as shares of lung volume."""

    onset_to_first: int
    peak: float
    peak_burden: float
    rise: float
    clearing: float
    discharge_delay: float

    def burden(self, since_onset: float) -> float:
        """Return the share of the lung that is lesion: a Gaussian with its own width before and after the peak."""
        width = self.rise if since_onset < self.peak else self.clearing
        return self.peak_burden * math.exp(-(((since_onset - self.peak) / width) ** 2))

    @property
    def clearance(self) -> float:
        """Day since onset on which the burden falls below `CLEARED`."""
        return self.peak + self.clearing * math.sqrt(math.log(max(self.peak_burden / CLEARED, 1.0)))

    @property
    def discharge_day(self) -> int:
        """Day of discharge, counted from the first scan: clearance and administrative noise."""
        earliest = math.ceil(self.peak - self.onset_to_first) + 2
        return max(earliest, round(self.clearance + self.discharge_delay - self.onset_to_first))


@dataclass(frozen=True)
class Appearance:
    """What one scan shows: burden, phase (days from the peak, negative while rising) and density."""

    burden: float
    since_onset: float
    phase: float
    ground_glass: float
    contrast_hu: float

    @property
    def paving(self) -> float:
        """Return how far septa have thickened, 0 to 1: not while all is ground glass, nor while much is consolidated."""
        return float(np.clip(1 - abs(self.ground_glass - 0.68) / 0.3, 0, 1))

    @property
    def stage(self) -> str:
        """Return rising, peak or clearing."""
        return "rising" if self.phase < -2 else "peak" if self.phase <= 2 else "clearing"


FIGURE_4 = Course(onset_to_first=5, peak=11.0, peak_burden=0.22, rise=9.0, clearing=3.2, discharge_delay=1.05)


def draw_course(seed: int, patient_id: str) -> Course:
    """Draw a patient's course from the seed of the order form and the patient's id."""
    rng = np.random.default_rng(random_seed(seed, patient_id, "course"))
    return random_course(rng)


def random_course(rng: np.random.Generator) -> Course:
    """Draw a course; a few stay nearly clear from the first to the last day."""
    course = Course(
        onset_to_first=int(np.clip(round(rng.normal(5.0, 2.7)), 0, 10)),
        peak=float(rng.uniform(10.0, 15.0)),
        peak_burden=float(np.clip(math.exp(rng.normal(math.log(0.19), 0.45)), 0.05, HIGHEST)),
        rise=float(math.exp(rng.normal(math.log(9.5), 0.10))),
        clearing=float(math.exp(rng.normal(math.log(4.0), 0.12))),
        discharge_delay=float(rng.normal(0.5, 0.6)),
    )
    mild, peak = rng.random() < MILD, MILD_PEAK * math.exp(rng.normal(0, 0.4))
    return replace(course, peak_burden=peak) if mild else course


def appearance(
    course: Course, since_onset: float, rng: np.random.Generator, *, phase_visible: float, independent: bool = False
) -> Appearance:
    """Return what a scan on day `since_onset` shows.

    `phase_visible` in [0, 1] weighs the phase's own density against that of a random phase. With `independent` (the null
    world) burden and phase come from a fresh course on a random day, whatever the patient's own course and day.
    """
    if independent:
        course = random_course(rng)
        since_onset = course.onset_to_first + rng.uniform(0, course.discharge_day)
    else:
        rng.uniform(size=7)
    phase = since_onset - course.peak
    other = rng.uniform(-10, 6)
    ground_glass = (
        phase_visible * _ground_glass(phase) + (1 - phase_visible) * _ground_glass(other) + rng.normal(0, 0.06)
    )
    contrast = phase_visible * _contrast(phase) + (1 - phase_visible) * _contrast(other) + rng.normal(0, 45)
    return Appearance(
        burden=float(np.clip(course.burden(since_onset) * math.exp(rng.normal(0, 0.08)), 0.0005, HIGHEST)),
        since_onset=float(since_onset),
        phase=float(phase),
        ground_glass=float(np.clip(ground_glass, 0.25, 0.98)),
        contrast_hu=float(np.clip(contrast, 150, 420)),
    )


def _ground_glass(phase: float) -> float:
    """Share of the lesions that is ground glass: high early, lower from the peak on."""
    return 0.90 - 0.40 / (1 + math.exp(-(phase + 2.5) / 1.5))


def _contrast(phase: float) -> float:
    """Density that ground glass adds to the lung, in HU: it fades while clearing."""
    return 330 - 110 / (1 + math.exp(-(phase - 2.0) / 1.2))
