"""Profiles (sizes) and runs (the paths of one run)."""

import csv
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from covid3d.run.errors import ConfigError, nearest
from covid3d.run.files import read_json, sha256_file, write_private, write_text
from covid3d.run.strict import Strict, read_keys, validate

PROFILES = Path(__file__).parents[1] / "profiles"
DATA = Path(__file__).parents[1] / "data"
PHANTOM_MANUFACTURER = "COVID3D phantom"
"""What the Manufacturer of simulated DICOM begins with."""
KINETICS = Path("data", "weights", "kinetics600.safetensors")
"""Where runs look for converted Kinetics-600 weights, below the repository root."""
TRUNK, TRUNK_WIDTH = DATA / "trunk.safetensors", 0.25
"""The trunk that comes with the package, pretrained on simulated scans (`benchmarks.pretrain`), and its width."""
OPEN_LICENCE = r"(CC|PDDL|MIT|TCIA)[A-Za-z0-9 .-]{0,30}"
YAML = (".yaml", ".yml")
"""What the path of a profile that does not come with the package ends with."""
OUTSIDE = "outside:"
"""What config.yaml has, before a hash of its path, for a manifest outside the repository."""
SLICES_TRUNK = DATA / "slices_trunk.safetensors"
"""The same for the 2D baseline (`benchmarks.pretrain_slices`)."""


class Cohort(Strict):
    """How much of the order form is delivered; None takes all of it."""

    development_per_class: int | None = Field(ge=4)
    external_per_class: int | None = Field(ge=2)
    followup_patients: int | None = Field(ge=4)
    rescans: int = Field(ge=0, description="same-day rescans of patients, outside the 397")
    control_patients: int = Field(ge=0, description="COVID- patients with simulated follow-ups, outside the 397")


class Phantom(Strict):
    """Size of a simulated scan."""

    matrix: int = Field(ge=32, le=1024, description="pixels in each row and column")
    slices: int | None = Field(ge=16, description="slices of a scan; None takes n_slices of the order form")
    keep_dicom: bool = Field(description="False deletes each scan's DICOM once it is in the store")
    phase_visible: float = Field(ge=0, le=1, description="how much one scan tells of the phase of disease")


class Model(Strict):
    """Network and its input grid."""

    grid: tuple[int, int, int] = Field(strict=False, description="(z, y, x) voxels")
    width: float = Field(gt=0, le=1, description="scales the number of channels of I3D")
    pretrained: bool = Field(description="start from Kinetics-600 (width 1) or the simulated trunk (width 0.25)")

    @field_validator("pretrained")
    @classmethod
    def _only_at_known_widths(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("width", 1) not in (1, TRUNK_WIDTH):
            raise ValueError(f"It should be false: there are pretrained weights at width 1 and {TRUNK_WIDTH} alone")
        return value


class FromTrunk(Strict):
    """How Task 1 goes on from a pretrained trunk: the head is fitted first, and batch norm stays as it is."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class Training(Strict):
    """One fold of Task 1."""

    folds: int = Field(ge=2)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0, description="the highest rate of the one-cycle schedule")
    warm_up: float = Field(ge=0, le=0.5, description="share of the steps in which the rate rises to its peak")
    hold: float = Field(ge=0, lt=0.5, description="share of the steps, at the end, with the final rate")
    final_rate: float = Field(gt=0, le=1, description="the final rate, as a share of the peak")
    weight_decay: float = Field(ge=0)
    flip: bool
    shift_voxels: int = Field(ge=0)
    rotation_degrees: float = Field(ge=0)
    window_jitter_hu: float = Field(ge=0)
    threads_per_fold: int = Field(ge=1)
    from_trunk: FromTrunk | None = Field(
        description="replaces epochs and rate where the trunk is pretrained; null for neither"
    )


class Slices(Strict):
    """The 2D baseline."""

    backbone: Literal["resnet10t", "resnet18", "resnet50"]
    width: float = Field(gt=0, le=1, description="scales the number of channels of the backbone")
    size: int = Field(ge=32, description="pixels in each row and column of a slice")
    slices_per_scan: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    pretrained: Literal["imagenet", "phantom"] | None = Field(
        description="start from ImageNet (data/weights), from simulated scans (the package's own), or null: random values"
    )

    @property
    def weights(self) -> Path | None:
        """The file of weights that training starts from, which may be missing; None when its values are drawn."""
        imagenet = repository_root() / "data" / "weights" / f"{self.backbone}.safetensors"
        return {"imagenet": imagenet, "phantom": SLICES_TRUNK, None: None}[self.pretrained]

    @property
    def head_first(self) -> bool:
        """Whether the head is fitted first and batch norm stays as it is: after pretraining on scans like these."""
        return self.pretrained == "phantom"

    @property
    def network(self) -> str:
        """The backbone in words, its width where it is not timm's own."""
        return self.backbone.replace("resnet", "ResNet-") + (f" of width {self.width:g}" if self.width < 1 else "")

    @property
    def start(self) -> str:
        """What training starts from, in words."""
        known = {"imagenet": "pretrained on ImageNet", "phantom": "pretrained on simulated scans", None: "from scratch"}
        return known[self.pretrained]


class Windows(Strict):
    """The lung window, and the sample of windows around it at test time."""

    level: float
    width: float = Field(gt=0)
    count: int = Field(ge=2)
    level_sd: float = Field(gt=0)
    width_sd: float = Field(gt=0)
    reason: str
    internal_count: int = Field(ge=2, description="the first of them, used on the internal validation folds")
    curve_multiples: tuple[float, ...] = Field(strict=False, description="SDs of the degradation curve")
    curve_count: int = Field(ge=2)


class Explain(Strict):
    """The activation map, and the occlusion beside it."""

    layer: str
    method: Literal["gradcam", "hirescam"]
    boxed: int = Field(ge=1, description="external scans of each class that are searched by overlapping boxes, at most")


class Prognosis(Strict):
    """Fine-tuning for the remaining stay."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    trained_blocks: int = Field(ge=0, le=9, description="last Inception blocks that train, beside the head")
    high_risk_days: float = Field(gt=0)
    permutations: int = Field(ge=19)


class Statistics(Strict):
    """Resampling sizes and the equivalence margin."""

    bootstrap: int = Field(ge=99)
    permutations: int = Field(ge=99)
    equivalence_margin_points: float = Field(gt=0)


class Profile(Strict):
    """Every size of a run, read from one YAML file."""

    name: str
    purpose: str
    minutes: float = Field(gt=0, description="wall time on the reference machine")
    disk_gb: float = Field(gt=0)
    memory_gb: float = Field(gt=0)
    reference_machine: str
    cohort: Cohort
    phantom: Phantom
    model: Model
    training: Training
    slices: Slices
    windows: Windows
    explain: Explain
    prognosis: Prognosis
    statistics: Statistics


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str, root: Path | None = None) -> Profile:
    """Read a profile by name, or from a YAML file; unknown keys and wrong types are refused by name.

    root: where a file's relative path starts; None: the working directory.
    """
    if name.endswith(YAML):
        path, start = (root or Path()) / name, "working directory" if root is None else "root of the repository"
        cure = f"A file's path starts at the {start}; known by name: {', '.join(profile_names())}"
        known = path.is_file()
    else:
        path, cure, known = PROFILES / f"{name}.yaml", nearest(name, profile_names()), name in profile_names()
    if not known:
        raise ConfigError(f"there is no profile '{name}'", cure=cure)
    content = read_keys(path, where=path.name, cure="Start from a profile in covid3d/profiles")
    return validate(Profile, content, where=path.name)


def repository_root() -> Path:
    """Return COVID3D_ROOT, else the nearest folder upward that holds data_manifest.csv, else the working directory."""
    if os.environ.get("COVID3D_ROOT"):
        return Path(os.environ["COVID3D_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "data_manifest.csv").is_file():
            return folder
    return here


class RunConfig(Strict):
    """What config.yaml of a run holds: a run is profile x manifest x world x seed."""

    profile: str
    manifest: str | None = None
    world: Literal["effect", "null"] = "effect"
    seed: int = Field(default=1, ge=0)
    weights: str | None = Field(default=None, description="site mode: given weights, chapter 10 only")
    weights_sha256: str | None = Field(default=None, description="of the given weights' bytes")


@dataclass(frozen=True)
class Run:
    """One run: its profile, its cohort and the paths of everything it makes. Only a Run knows paths."""

    name: str
    root: Path
    config: RunConfig
    profile: Profile
    compute: bool = True
    device: str = "auto"

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def world(self) -> str:
        return self.config.world

    @property
    def is_site(self) -> bool:
        """True when the run scores a hospital's scans with given weights instead of training."""
        return self.config.weights is not None

    @property
    def folder(self) -> Path:
        return self.root / "runs" / self.name

    def path(self, *parts: str) -> Path:
        """Return a path inside the run's folder."""
        return self.folder.joinpath(*parts)

    @property
    def order_form(self) -> Path:
        """The manifest that was asked for: the embedded one, or the user's."""
        if self.config.manifest is None:
            return DATA / "data_manifest.csv"
        return self._given("manifest", self.config.manifest)

    @property
    def given_weights(self) -> Path:
        """The weights file that a run in site mode was given."""
        return self._given("weights", str(self.config.weights))

    def _given(self, kind: str, text: str) -> Path:
        """Return where a file that config.yaml names lies: below the repository, or where its note says."""
        if not text.startswith(OUTSIDE):
            return self.root / text
        try:
            return Path(read_json(self.note(kind))["path"])
        except (OSError, ValueError, KeyError):
            where = self.note(kind).relative_to(self.root).as_posix()
            cure = "Put the file back, or start anew under another name"
            raise ConfigError(f"where the run's {kind} lies is not known", where=where, cure=cure) from None

    def note(self, kind: str) -> Path:
        """Where the path of a manifest or of weights outside the repository is kept, for its owner alone: it can name people."""
        return self.root / "data" / "keys" / ("manifests" if kind == "manifest" else kind) / f"{self.name}.json"

    @property
    def manifest(self) -> Path:
        return self.path("manifest.csv")

    @property
    def intake(self) -> Path:
        return self.path("intake.csv")

    @property
    def pretrained(self) -> Path | None:
        """The weights that Task-1 folds start from; None when the profile wants none or none are at hand."""
        path = TRUNK if self.profile.model.width == TRUNK_WIDTH else self.root / KINETICS
        return path if self.profile.model.pretrained and not self.is_site and path.is_file() else None

    @property
    def from_trunk(self) -> FromTrunk | None:
        """How Task 1 goes on from the pretrained trunk; None where there is none, or the profile trains it as any other."""
        return self.profile.training.from_trunk if self.pretrained else None

    @property
    def epochs(self) -> int:
        """How many epochs a fold of Task 1 is trained."""
        return (self.from_trunk or self.profile.training).epochs

    @property
    def splits(self) -> Path:
        return self.path("splits.csv")

    @property
    def volumes(self) -> Path:
        return self.path("volumes")

    def model(self, task: str, model: str, fold: int) -> Path:
        """Return the folder of one fold of one model, e.g. models/task1/covid3d/fold_03."""
        return self.path("models", task, model, f"fold_{fold:02d}")

    def chapter(self, number: str) -> Path:
        return self.path("chapters", number)

    def chapter_files(self, pattern: str) -> list[Path]:
        """Return what finished chapters left that matches a pattern, e.g. "values.json", in their order."""
        return sorted(self.path("chapters").glob(f"[0-9][0-9]/{pattern}"))

    @property
    def is_phantom(self) -> bool:
        """True when the order form asks for simulated scans, or intake found the simulator's name in a scan's header."""
        for path, mark in ((self.order_form, r'(^|,)[\s"]*phantom:'), (self.intake, f"(^|,){PHANTOM_MANUFACTURER}")):
            if path.is_file():
                with path.open(encoding="utf-8-sig", errors="replace") as stream:
                    if any(re.search(mark, line) for line in stream):
                        return True
        return False

    @property
    def cohort(self) -> Literal["phantom", "public", "site"]:
        """Where the scans come from; public when the run trains and every scan has an open licence."""
        if self.is_phantom:
            return "phantom"
        if self.is_site or not self.manifest.is_file():
            return "site"
        with self.manifest.open(encoding="utf-8-sig", newline="") as stream:
            licences = [row.get("licence") or "private" for row in csv.DictReader(stream)]
        return "public" if licences and all(re.fullmatch(OPEN_LICENCE, text) for text in licences) else "site"

    def with_options(self, *, compute: bool | None = None, device: str | None = None) -> "Run":
        """Return the same run with other options for this process."""
        return replace(self, compute=self.compute if compute is None else compute, device=device or self.device)


def open_run(name: str, **options: Any) -> Run:
    """Open a run by name, creating it when it is new.

    A new run takes `profile`, `manifest`, `world`, `seed` and `weights` from the options; without a profile the
    run's name must be a profile's name. An existing run refuses options that differ from its own. Relative paths start at
    the root of the repository; a profile's file must lie below it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"'{name}' is no name for a run", cure="Use letters, digits, '.', '_' and '-', at most 64")
    root = repository_root()
    path = root / "runs" / name / "config.yaml"
    given = {key: value for key, value in options.items() if value is not None and value != ""}
    sources = {key: Path(os.path.abspath(root / str(given[key]))) for key in ("manifest", "weights") if key in given}
    outside = {key: source for key, source in sources.items() if not source.is_relative_to(root)}
    for kind, source in sources.items():
        called = source.name if kind == "weights" else hashlib.sha256(str(source).encode()).hexdigest()[:16]
        given[kind] = OUTSIDE + called if kind in outside else source.relative_to(root).as_posix()
    if "weights" in sources:
        if not sources["weights"].is_file():
            cure = "Give WEIGHTS=path of a safetensors file"
            raise ConfigError("there is no such weights file", where=str(options["weights"]), cure=cure)
        given["weights_sha256"] = sha256_file(sources["weights"])
    if "profile" in given:
        given["profile"] = _named_profile(root, str(given["profile"]))
    for key in given.keys() - RunConfig.model_fields.keys():
        raise ConfigError(f"unknown option '{key}' of a run", cure=nearest(key, RunConfig.model_fields))
    if path.is_file():
        where, cure = f"runs/{name}/config.yaml", f"Put the file back, or start anew with `make clean-run RUN={name}`"
        config = validate(RunConfig, read_keys(path, where=where, cure=cure), where=where)
        for key, value in given.items():
            if getattr(config, key) != value:
                raise ConfigError(
                    f"run '{name}' exists with {key} = {getattr(config, key)!r}, not {value!r}",
                    where=f"runs/{name}/config.yaml",
                    cure=f"Choose another RUN=name, or remove this one with `make clean-run RUN={name}`",
                )
    else:
        if "profile" not in given and name not in profile_names():
            raise ConfigError(
                f"there is no run '{name}'",
                where="runs/",
                cure=f"Create it with `make run PROFILE=smoke RUN={name}`, or use a profile's name: {', '.join(profile_names())}",
            )
        config = validate(RunConfig, {"profile": name, **given}, where=f"options of run '{name}'")
    run = Run(name=name, root=root, config=config, profile=load_profile(config.profile, root))
    if not (sources.get("manifest") or run.order_form).is_file():
        where = str(options.get("manifest") or config.manifest)
        raise ConfigError("the manifest does not exist", where=where, cure="Give MANIFEST=path of a CSV file")
    for kind, source in outside.items():
        write_private(run.note(kind), {"path": str(source)})
    if not path.is_file():
        try:
            write_text(path, yaml.safe_dump(config.model_dump(), sort_keys=True))
        except BaseException:
            for kind in outside:
                run.note(kind).unlink(missing_ok=True)
            raise
    return run


def _named_profile(root: Path, text: str) -> str:
    """Return a profile as config.yaml names it: its name, or its file's path from the repository's root."""
    if not text.endswith(YAML):
        return text
    source = Path(os.path.abspath(root / text))
    for path in (source, source.resolve()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    cure = "Copy it into the repository: a run is repeated from there"
    raise ConfigError("the profile's file lies outside the repository", where=source.name, cure=cure)


def chapter_title(chapter: str) -> str:
    """Return a chapter's name for a reader: '03_cross_validation' -> '3 Cross-validation'."""
    number, _, words = chapter.partition("_")
    return f"{int(number)} {words.replace('_', ' ').capitalize()}"
