# COVID3D companion. Every target sets up what it needs in .venv by itself; `make` alone prints this help.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do $$python -c '' >/dev/null 2>&1 && echo $$python && break; done)
VENV ?= .venv
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
RUN ?=
TO ?=
PROFILE ?=
MANIFEST ?=
WORLD ?=
SEED ?=
WEIGHTS ?=
READER ?=
SWEEP ?= sweep.yaml
CLUSTER ?=
TEST_WORKERS ?= 2
PYTEST_ARGS ?=

PY := "$(VENV)/bin/python"
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
SPACE := $(subst x,,x x)
STAMP := $(subst $(SPACE),\$(SPACE),$(VENV)/.installed-$(KEY))
OPTIONS = $(if $(PROFILE),--profile "$(PROFILE)") $(if $(MANIFEST),--manifest "$(MANIFEST)") \
	$(if $(WORLD),--world "$(WORLD)") $(if $(SEED),--seed "$(SEED)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
	$(if $(CLUSTER),--cluster "$(CLUSTER)")
CALLED = COVID3D_CALLER=$$PPID $(PY)
COVID3D = $(CALLED) -m covid3d
PIPELINE = $(COVID3D) pipeline --cores $(CORES)

.DEFAULT_GOAL := help
.PHONY: help report smoke run batch book reading-room publish test verify extended lint format doctor clean clean-run distclean setup

help:
	@echo "COVID3D companion: the paper's tables and figures regenerated from DICOM files."
	@echo
	@echo "  make report      profile 'standard': 397 simulated scans, 10 folds, 9 notebooks, the book; 15 to 25 min, 2 GB on 2 cores"
	@echo "  make smoke       profile 'smoke': the same path with about 50 scans; 3 min, 0.5 GB"
	@echo "  make run         RUN=name PROFILE=smoke|standard|paper [MANIFEST=file] [WORLD=effect|null] [SEED=1] [WEIGHTS=file] [CLUSTER=slurm]"
	@echo "  make batch       SWEEP=sweep.yaml: one run for each set of parameters, compared claim by claim"
	@echo "  make book        RUN=name: build the book of a run again"
	@echo "  make reading-room RUN=name READER=R1: JupyterLab, where a radiologist reads the scans of a run blinded"
	@echo "  make publish     RUN=name TO=folder: its book for the public; refused unless its scans are simulated or public"
	@echo "  make test        all tests, with a smoke run in them; at most 20 min"
	@echo "  make verify      the campaigns at full size"
	@echo "  make extended    what 'report' cannot hold: nested folds and compared models on all folds, 30 min; two more seeds, 30 min (2 cores)"
	@echo "                   RUN=name: of that run, without seeds"
	@echo "  make lint        ruff, mypy, import floors, empty notebooks, sizes of files"
	@echo "  make doctor      Python, disk, cores, memory, GPU, and what each profile needs"
	@echo "  make clean       caches; clean-run RUN=name: one run and the key to its pseudonyms; distclean: .venv, all runs and keys, caches"
	@echo
	@echo "The first target that needs it installs into $(VENV): about 8 GB (the index's Linux torch brings CUDA), 5 to 15 min."
	@echo "Other Python: make report PYTHON=/path/to/python3.12    Fewer cores: CORES=1"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Set-up in $(VENV): about 8 GB of disk, 5 to 15 min with a good connection; done once, again only when the pins change."
	@"$(PYTHON)" -c '' 2>/dev/null || { echo "error: there is no '$(or $(PYTHON),python3.11, python3.12 or python3.13)'." \
	"Install Python 3.11, 3.12 or 3.13, or say make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --editable ".[dev]" --constraint constraints.txt
	@$(PY) -m compileall -q -j 0 -x 'site-packages/.*/tests?/' "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null 2>&1 || true  # on all cores; no tests
	@rm -f "$(VENV)"/.installed-*
	@touch "$@"

report: $(STAMP)
	@$(PIPELINE) $(or $(RUN),standard) --profile standard $(if $(SEED),--seed "$(SEED)") $(if $(WORLD),--world "$(WORLD)")

smoke: $(STAMP)
	@$(PIPELINE) $(or $(RUN),smoke) --profile smoke $(if $(SEED),--seed "$(SEED)") $(if $(WORLD),--world "$(WORLD)")

run: $(STAMP)
	@test -n "$(RUN)" || { echo "error: which run? Say make run RUN=name PROFILE=smoke" >&2; exit 2; }
	@$(PIPELINE) "$(RUN)" $(OPTIONS)

batch: $(STAMP)
	@$(COVID3D) batch "$(SWEEP)" --cores $(CORES)

book: $(STAMP)
	@test -n "$(RUN)" || { echo "error: which run? Say make book RUN=smoke" >&2; exit 2; }
	@$(COVID3D) step book --run "$(RUN)"

reading-room: $(STAMP)
	@test -n "$(RUN)" -a -n "$(READER)" || { echo "error: which run? And who reads? Say make reading-room RUN=name READER=R1" >&2; exit 2; }
	@$(COVID3D) room "$(RUN)" "$(READER)"

publish: $(STAMP)
	@test -n "$(RUN)" -a -n "$(TO)" || { echo "error: which run, and where to? Say make publish RUN=standard TO=site" >&2; exit 2; }
	@$(COVID3D) publish "$(RUN)" --to "$(TO)"

test: $(STAMP)
	@echo "All tests, with a smoke run, its notebooks and its book: at most 20 min on 2 cores, 1 GB."
	@$(PY) -m compileall -q covid3d benchmarks  # once, where PYTHONDONTWRITEBYTECODE has each process of a run do it
	OMP_NUM_THREADS=1 $(CALLED) -m pytest -q -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

verify: $(STAMP)
	@echo "Campaigns at their stated size: about 6 h on 2 cores; each says what it does. Results go to benchmarks/results/;"
	@echo "what is stored there and current is not computed again. One alone: make verify PYTEST_ARGS='-k null'"
	@OMP_NUM_THREADS=1 $(CALLED) -m pytest -q -s -m verify $(PYTEST_ARGS)

extended: $(STAMP)
	@echo "Nested cross-validation (chapter 3) and the compared models on all folds (chapter 4): about 30 min on 2 cores after a report"
	@echo "of 'standard'. A stopped command goes on where it was."
ifneq ($(RUN),)
	@$(PIPELINE) "$(RUN)" $(OPTIONS) --extended
else
	@echo "Then two more seeds of 'standard' (about 15 min each), compared with the first. RUN=name: of that run, without seeds."
	@$(PIPELINE) standard --profile standard --extended
	@$(PIPELINE) standard-seed2 --profile standard --seed 2
	@$(PIPELINE) standard-seed3 --profile standard --seed 3
	@for other in standard-seed2 standard-seed3; do $(COVID3D) claims diff standard $$other || test $$? -eq 1; done
endif

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb
	@lines() { (cd covid3d && find "$$@" -name '*.py' -exec cat {} + | wc -l); }; \
	echo "lines: paper $$(lines chapters figures stats network ct $(notdir $(wildcard $(addprefix covid3d/,show.py notebook.py))))," \
	"plant $$(lines cohort dicom comparators report run commands kinetics), simulator $$(lines phantom)," \
	"Snakefile $$(cat Snakefile | wc -l) (at most 150)"
	@find covid3d -name '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > 450 { print "too long (450 lines at most): " $$2 " " $$1; bad = 1 } END { exit bad }'

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m nbstripout --keep-id notebooks/*.ipynb

doctor: $(STAMP)
	@$(COVID3D) doctor

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .snakemake build dist
	find covid3d tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-run:
	@test -n "$(RUN)" || { echo "error: which run? Say make clean-run RUN=name" >&2; exit 2; }
	@case "$(RUN)" in */*|.*) echo "error: '$(RUN)' is no name for a run" >&2; exit 2;; esac
	@test -d "runs/$(RUN)" -o -f "data/keys/$(RUN).json" || { echo "error: there is no runs/$(RUN)" >&2; exit 2; }
	rm -rf "runs/$(RUN)" "data/keys/$(RUN).json" "data/keys/manifests/$(RUN).json" "data/keys/weights/$(RUN).json"  # with it the key to its pseudonyms

distclean: clean
	@ls runs 2>/dev/null | while read -r run; do rm -f "data/keys/$$run.json" "data/keys/manifests/$$run.json" "data/keys/weights/$$run.json"; done
	rm -rf "$(VENV)" runs covid3d.egg-info
