# Recipes name the tree by relative paths only, so that it may lie in a folder with spaces in its name.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export SCALE FOOTAGE

# .venv is fresh as long as its stamp says what is wanted: these four files, installed from this folder.
STAMP := .venv/.stamp
export WANTED := $(shell cat settings.ini constraints.txt setup.py pyproject.toml | cksum) $(CURDIR)

# These show trained networks, which a clone has once they are released or `make run` has made them.
TRAINED := ^(index|20_shutter|30_gradient|40_beat_baenet|50_policy_map|60_latency)[.]
# The one notebook to be tested in a folder of lessons, whose exercises are still empty.
CHECKS := nbs/course/10_checks.ipynb
JOBS ?= 2
# Each of them gets its share of the cores.
THREADS = $(shell n=$$(( $$(getconf _NPROCESSORS_ONLN)/$(JOBS) )); echo $$(( n > 1 ? n : 1 )))
SITE ?= site
CAMERAS := $(addprefix tests/test_,camera_contract.py gphoto2.py v4l2.py camera_end_to_end.py camera_guest.py)

.DEFAULT_GOAL := help
.PHONY: help inputs run experiments test test-camera test-browser fuzz soak audit bench docs export clean FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

inputs: $(STAMP)
	@[[ -e .git ]] || dvc config --local core.no_scm true  # a download as ZIP: DVC shall not look for Git
	@[[ $$FOOTAGE ]] || dvc status -q data.dvc || dvc pull data.dvc </dev/null || { [[ -d data ]] && \
	    echo "data/ has changes of yours and is used as it is (the embedded footage again: git checkout data.dvc && dvc checkout --force data.dvc)"; }
	@changes=(); [[ -z $$SCALE ]] || changes+=("scale=$$SCALE"); [[ -z $$FOOTAGE ]] || changes+=("scenes.footage=$$FOOTAGE"); \
	[[ $${#changes[@]} = 0 ]] || python -m debir_nb.pipeline set "$${changes[@]}"

run: inputs  ## footage to tables, then print them [SCALE=smoke|small|paper] [FOOTAGE=path]
	@dvc repro results capture
	@python -m debir_nb.pipeline results

experiments: inputs  ## every stage, those beyond the core too, JOBS=2 at a time; hours, and a stopped run goes on where it was [SCALE, FOOTAGE]
	@python -m debir_nb.pipeline repro --jobs $(JOBS)
	@python -m debir_nb.pipeline results

test: $(STAMP)  ## every test: the library's notebooks [JOBS=2 at a time], then tests/
	@export OMP_NUM_THREADS=$(THREADS); skip='^[_.]'; why=$$(python -c 'from debir_nb.weights.pretrained import load_pretrained; load_pretrained()' 2>&1) || \
	    { skip="$$skip|$(TRAINED)"; echo "index and the explorers are skipped: $${why##*ValueError: }"; }; \
	nbdev_test --n_workers $(JOBS) --skip_file_re "$$skip" && nbdev_test --path $(CHECKS) --ignore_fname none \
	    && notebooks=passed || notebooks=FAILED; \
	python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder; rc=$$?; \
	[[ $$notebooks = passed ]] || { echo "notebooks: $$notebooks (see above)" >&2; rc=1; }; exit $$rc

test-camera: $(STAMP)  ## the camera drivers, those of the kernel too, in a virtual machine (apt fetches it into .cache/)
	@python -m pytest -q -m "guest or not guest" $(CAMERAS)

fuzz: $(STAMP)  ## mutated files for every reader: a right value or one sentence, within 5 s and 1 GB [FUZZ_CASES=20000, FUZZ_SEED=0]
	@FUZZ_CASES=$${FUZZ_CASES:-20000} python -m pytest -q -n $(JOBS) tests/test_fuzz.py

soak: $(STAMP)  ## 500 bursts and restorations in one process, and a kill before every change to files [SOAK=500, CRASH_POINTS=1000, CRASH_SEED=0]
	@SOAK=$${SOAK:-500} CRASH_POINTS=$${CRASH_POINTS:-1000} python -m pytest -q -n $(JOBS) tests/test_soak.py tests/test_crash.py

audit: $(STAMP)  ## known weaknesses of the packages in constraints.txt, asked of PyPI by pip-audit
	@[[ -x .cache/audit/bin/pip-audit ]] || { python -m venv .cache/audit && .cache/audit/bin/pip install -q --disable-pip-version-check pip-audit==2.10.1; } 2>/dev/null || true
	@python tests/audit.py

bench: $(STAMP)  ## speed and memory against the plain forms and the machine's limits, into results/benchmarks.json [BENCH="-k burst", or "-m long": the paper's size, and 24 and 48 megapixels]
	@cd tests/benchmarks && OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_ARENA_MAX=1 \
	    python -m pytest -q -s -c bench.ini $(BENCH)

test-browser: $(STAMP)  ## the pages of `make docs` and everything else that is used in a browser, in Chromium (apt installs it, where it may)
	@command -v chromium >/dev/null || [[ $$(id -u) != 0 ]] || { apt-get -qq update; apt-get -qq -y install chromium; } >/dev/null || true
	@python -m pytest -q -m browser

docs: $(STAMP)  ## every notebook, with what was run, and the library's reference as pages: site/html/index.html
	@python docs/sources.py "$(SITE)/source"
	@sphinx-build -q -W --keep-going -c docs -d "$(SITE)/doctrees" "$(SITE)/source" "$(SITE)/html"
	@echo "open $(SITE)/html/index.html"

export: $(STAMP)  ## notebooks to debir_nb/, then strip what does not belong in Git
	@nbdev_export
	@nbdev_clean

clean:  ## remove caches and built pages; .venv, data and results stay
	@rm -rf _proc _docs site build dist *.egg-info .pytest_cache .ruff_cache
	@find debir_nb docs nbs tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(WANTED))
$(STAMP): FORCE
endif
$(STAMP):
	@if ! grep -sqF " $$(pwd -P)/.venv" .venv/pyvenv.cfg || ! .venv/bin/python -c ''; then \
	    rm -rf .venv; \
	    for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	        "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	    done; \
	    if [[ -z $$python ]]; then \
	        echo "Python 3.11 or newer with its venv module is needed (Debian, Ubuntu: apt install python3-venv), or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	    fi; \
	    "$$python" -m venv .venv; \
	fi
	@echo "Installing into .venv (about 2 GB, a few minutes) ..."
	@python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@printf '%s\n' "$$WANTED" > $(STAMP)
