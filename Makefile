# make is the face; every target runs a program that can be run, and read, without it.
PYTHON ?= python3.11
UV     ?= $(shell command -v uv 2>/dev/null)
IMAGE  ?= vertex-torchserve:latest
PORT   ?= 8080
URL    ?= http://127.0.0.1:$(PORT)/predictions/digits
# Empty: the wheel of requirements/torch.lock. Another, from another index: torch==2.13.0+cu130.
TORCH  ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Where the model is fetched from, gs://BUCKET/FOLDER or a folder; empty: the archive baked in.
STORAGE ?=
# What the image is built on; by digest, debian@sha256:..., where two builds must be the same.
BASE ?= debian:bookworm-slim
# What the image says of where it comes from: the commit, its time, and where it lies, less a password.
REVISION ?= $(shell git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null)
SOURCE ?= $(filter https://% ssh://% git@%,$(shell git remote get-url origin 2>/dev/null | sed 's,//[^/@]*@,//,'))
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
CREATED = $(shell $(BIN)/python -c 'import datetime as d; print(d.datetime.fromtimestamp($(SOURCE_DATE_EPOCH), d.timezone.utc).isoformat())')
# How much of /tmp make run gives it; a model that is fetched has to fit in twice.
TMP ?= 1g
# Packages that the image needs beside requirements/serve.lock, as pip takes them.
EXTRAS ?=

# Of the function that is deployed, or whose model is uploaded: hello, knn or digits.
NAME ?= knn

# Where to deploy; both are remembered, and everything else is in deploy.toml.
PROJECT ?=
REGION ?=
# The GKE cluster, and what make manifests looks at.
CLUSTER ?=
OVERLAY ?= $(wildcard kubernetes/overlays/*)
# Options of python -m deploy, such as --dry-run.
ARGS ?=
# Trained weights that make pipeline is to take: gs://BUCKET/FOLDER or a folder; empty: it trains.
WEIGHTS ?=

INSTANCES ?= build/model/held-out/instances.json
# Of a container that is put to the contract: vertex, read-only or least.
RIGHTS ?= vertex

BIN := .venv/bin
DOCKER ?= docker
MODEL := build/model/weights.safetensors
ARCHIVE ?= build/model-store/digits.mar
LOCKS := serve local dev sbom scan kubernetes java bench pipeline

# A bucket is named to the container, with the credentials of this machine's user; a folder is mounted.
BUCKET := $(filter gs://%,$(STORAGE))
MOUNTED := $(or $(BUCKET),$(if $(STORAGE),/mnt/model))
ADC := $(HOME)/.config/gcloud/application_default_credentials.json
MOUNT := $(if $(BUCKET),$(if $(wildcard $(ADC)),--volume "$(ADC)":/mnt/adc.json:ro --env GOOGLE_APPLICATION_CREDENTIALS=/mnt/adc.json),$(if $(STORAGE),--volume "$$(realpath "$(STORAGE)")":/mnt/model:ro))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup model export archive serve predict made-hello made-knn made-digits function-hello function-knn function-digits upload-model deploy-function build scan run push build-cloud deploy-endpoint canary promote rollback status undeploy teardown deploy-gke undeploy-gke manifests pipeline rehearse stand-in migrate contract faults tune bench start scaling test test-all lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  with PORT=$(PORT) IMAGE=$(IMAGE) PYTHON=$(PYTHON) where they apply"

# Packages are installed without bytecode: Python compiles the part of them that is imported, once.
unexport PYTHONDONTWRITEBYTECODE

# $(call install,ENVIRONMENT,WHAT): with uv, which takes seconds, or with pip, which also knows an index that is set
# for pip alone. --no-deps: the locks are complete, and older versions of pip would resolve google-auth[x] anew.
install = { test -n "$(UV)" && "$(UV)" pip install --quiet --no-deps --python $(1)/bin/python $(2); } || \
  $(1)/bin/python -m pip install --quiet --no-deps --no-compile $(2)
LOCKED = --require-hashes -r requirements/$(1).lock

setup: .venv/ready ## install all packages that are pinned in requirements/ into .venv

# What serves. .venv/ready adds what trains, deploys, tests and measures.
.venv/serving: requirements/local.lock requirements/torch.lock requirements/java.lock | .venv/bin/python
	@$(MAKE) --no-print-directory -j2 .venv/local .venv/torch
	@test -e .venv/ready || $(BIN)/python -m pip check
	@$(BIN)/python -m serving.java || { $(call install,.venv,$(call LOCKED,java)) && $(BIN)/python -m serving.java; }
	@touch $@

.venv/local: requirements/local.lock | .venv/bin/python
	@echo "Installing what serving needs into .venv, and torch, at the same time"
	@$(call install,.venv,$(call LOCKED,local))
	@touch $@

.venv/torch: requirements/torch.lock | .venv/bin/python
	@$(call install,.venv,--index-url $(TORCH_INDEX) $(or $(TORCH),$(call LOCKED,torch)))
	@touch $@

.venv/ready: requirements/dev.lock .venv/serving
	@echo "Installing what training, deploying and testing need into .venv"
	@$(call install,.venv,$(call LOCKED,dev))
	@$(BIN)/python -m pip check
	@touch $@

.venv/bin/python:
	@if command -v "$(PYTHON)" >/dev/null && "$(PYTHON)" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then "$(PYTHON)" -m venv .venv; \
	elif test -n "$(UV)"; then "$(UV)" venv --quiet --clear --seed --python 3.11 .venv; \
	else echo "Python 3.11 is missing: install python3.11 and python3.11-venv, or uv, or set PYTHON=/path/to/python3.11" >&2; exit 1; fi

model: .venv/ready ## train the network anew on scikit-learn's digits (DATA=folder: on yours; ARGS="--out model/trained")
	$(BIN)/python -m model.train $(if $(DATA),--data $(DATA)) $(ARGS)

# The weights that come with the repository, if none were trained here.
$(MODEL): | model/trained
	@mkdir -p $(@D)
	cp -R model/trained/. $(@D)
	@touch $@

archive: $(ARCHIVE) ## pack handler, model and weights into build/model-store/digits.mar

# All that is packed.
PACKED := $(shell find handler task model -type f -not -path '*/__pycache__*' -not -path 'model/train*' -not -path 'model/export/*')
# Without the folder model/export eager serves.
CHOICE := $(if $(wildcard model/export),build/model/engine.json)

export: $(MODEL) .venv/serving ## measure the engines on this machine and choose the fastest that keeps the answers
	$(BIN)/python -m model.export

build/model/engine.json: $(MODEL) $(wildcard task/backends/*.py) | .venv/serving
	$(BIN)/python -m model.export

# The folder itself, `model/.`, for what is deleted from it.
$(ARCHIVE): $(MODEL) $(CHOICE) $(wildcard build/model/*.json) $(PACKED) model/. serving/archive.py | .venv/serving
	$(BIN)/python -m serving.archive

serve: .venv/serving $(if $(STORAGE),,$(ARCHIVE)) ## serve on 127.0.0.1:PORT, without Docker, until Ctrl-C (STORAGE=folder or gs://: that model)
	@exec $(BIN)/python -m serving.local --port $(PORT) $(if $(STORAGE),--storage "$(STORAGE)")

predict: .venv/serving ## send a held-out digit, or IMAGE=path, to the served model and show the answer
	@$(BIN)/python -m serving.predict --url $(URL) $(if $(filter command,$(origin IMAGE)),"$(IMAGE)")

build: $(ARCHIVE) ## build the image IMAGE with Docker; what it consists of is listed in build/sbom.cdx.json
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag $(IMAGE) --build-arg BASE=$(BASE) --build-arg ARCHIVE="$(ARCHIVE)" --build-arg TORCH=$(TORCH) \
	  --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg EXTRAS="$(EXTRAS)" \
	  --build-arg REVISION=$(REVISION) --build-arg SOURCE="$(SOURCE)" --build-arg CREATED=$(CREATED) .
	$(DOCKER) run --rm --network none --entrypoint cat $(IMAGE) /sbom/sbom.cdx.json > build/sbom.cdx.json

scan: build/scan/ready ## look the image's contents up among known vulnerabilities (after make build)
	build/scan/bin/python docker/scripts/scan.py build/sbom.cdx.json

build/scan/ready: requirements/scan.lock | .venv/bin/python
	$(BIN)/python -m venv build/scan
	@$(call install,build/scan,$(call LOCKED,scan))
	@touch $@

run: ## run the image on 127.0.0.1:PORT with the variables that Vertex AI sets (STORAGE=: that model)
	$(DOCKER) run --rm --publish 127.0.0.1:$(PORT):$(PORT) $(MOUNT) --env LOG_FORMAT=text \
	  --read-only --tmpfs /tmp:size=$(TMP) --cap-drop ALL --security-opt no-new-privileges --pids-limit 256 \
	  --env AIP_HTTP_PORT=$(PORT) --env AIP_HEALTH_ROUTE=/ping --env AIP_PREDICT_ROUTE=/predictions/digits \
	  --env AIP_STORAGE_URI=$(MOUNTED) --env AIP_MODE=PREDICTION --env AIP_MODE_VERSION=1.0.0 --env AIP_FRAMEWORK=CUSTOM_CONTAINER \
	  --env AIP_PROJECT_NUMBER=1 --env AIP_ENDPOINT_ID=2 --env AIP_DEPLOYED_MODEL_ID=3 $(IMAGE)

FUNCTIONS := $(BIN)/python -m functions
IRISES := build/knn/knn.skops

$(IRISES): functions/knn/train.py functions/knn/iris.py | .venv/ready
	$(BIN)/python -m functions.knn.train

made-hello:
made-knn: $(IRISES)
# The archive for the request to try it with.
made-digits: .venv/ready $(ARCHIVE)

function-hello function-knn function-digits: function-%: .venv/ready made-%
	@exec $(FUNCTIONS) serve $* --port $(PORT) $(if $(STORAGE),--storage "$(STORAGE)")
function-hello: ## run a Cloud Function here until Ctrl-C: one that says what it is told
function-knn: ## run the scikit-learn function (STORAGE=gs://bucket/folder: the model that lies there)
function-digits: ## run the function that answers as the endpoint does (STORAGE= likewise)

upload-model: .venv/ready made-$(NAME) ## put the model of the function NAME into a bucket (STORAGE=gs://bucket/folder, or PROJECT=)
	@$(FUNCTIONS) upload $(NAME) $(if $(STORAGE),--storage $(STORAGE)) $(CLOUD)

deploy-function: .venv/ready ## deploy the function NAME (PROJECT=, REGION=; ARGS="--allow-unauthenticated --dry-run")
	@$(FUNCTIONS) deploy $(NAME) $(if $(STORAGE),--storage $(STORAGE)) $(CLOUD)

DEPLOY := DOCKER=$(DOCKER) ARCHIVE="$(ARCHIVE)" EXTRAS="$(EXTRAS)" $(BIN)/python -m deploy
CLOUD = $(if $(PROJECT),--project $(PROJECT)) $(if $(REGION),--region $(REGION)) $(ARGS)

push: .venv/ready $(ARCHIVE) ## build the image here and push it to Artifact Registry (PROJECT=, REGION=, see deploy.toml)
	@$(DEPLOY) build --builder local $(CLOUD)

build-cloud: .venv/ready $(ARCHIVE) ## build, test and push the image with Cloud Build
	@$(DEPLOY) build --builder cloud $(CLOUD)

deploy-endpoint: .venv/ready $(ARCHIVE) ## do all that is missing, from the image to a Vertex AI endpoint that answers
	@$(DEPLOY) endpoint $(CLOUD)

canary: .venv/ready $(ARCHIVE) ## give what is here a part of the traffic (ARGS="--traffic 10 --watch 10m")
	@$(DEPLOY) canary $(CLOUD)

promote rollback status undeploy teardown: .venv/ready
	@$(DEPLOY) $@ $(CLOUD)
promote: ## let the canary serve everything
rollback: ## let the version before serve everything again
status: ## say what runs, at which traffic, since when, and what it costs
undeploy: ## end what is deployed (ARGS=--idle: what has no traffic)
teardown: ## delete everything that costs; it asks first

# kfp's own environment: it wants an older protobuf than Google's clients here.
KFP := build/pipeline/venv

pipeline: $(KFP)/ready ## from data, or WEIGHTS=gs://…, to an endpoint: here, or with PROJECT= on Vertex AI (ARGS=--help)
	@DOCKER=$(DOCKER) $(BIN)/python -m pipeline $(if $(PROJECT),submit,run) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(CLOUD)

$(KFP)/ready: requirements/pipeline.lock .venv/ready
	$(BIN)/python -m venv $(KFP)
	@$(call install,$(KFP),$(call LOCKED,pipeline))
	@touch $@

GKE = $(DEPLOY).gke
ON = --cluster "$(CLUSTER)" $(CLOUD)

deploy-gke: .venv/ready $(ARCHIVE) ## let the pushed image answer in a GKE cluster (PROJECT=, CLUSTER=; ARGS=--dry-run)
	@$(GKE) deploy $(ON)

undeploy-gke: .venv/ready ## delete all of that; it asks first (PROJECT=, CLUSTER=)
	@$(GKE) undeploy $(ON)

manifests: build/kubernetes/ready ## render kubernetes/ and hold it against the schemas of three versions (OVERLAY=folder)
	@build/kubernetes/bin/python -m deploy.gke.validate $(OVERLAY)

build/kubernetes/ready: requirements/kubernetes.lock | .venv/bin/python
	$(BIN)/python -m venv build/kubernetes
	@$(call install,build/kubernetes,$(call LOCKED,kubernetes))
	@touch $@

rehearse: .venv/ready $(ARCHIVE) ## go through all of it on this machine, with the real gcloud and no account
	@DOCKER=$(DOCKER) $(BIN)/python -m emulator.walkthrough

stand-in: .venv/ready ## stand in for Google's control plane until Ctrl-C, for gcloud and SDK of your own
	@DOCKER=$(DOCKER) $(BIN)/python -m emulator $(ARGS)

migrate: .venv/ready ## say what of a stock archive MAR=model.mar will work here (REQUEST=file: try one)
	@$(BIN)/python -m serving.stock $(MAR) $(if $(REQUEST),--request $(REQUEST))

contract: .venv/ready ## put any image IMAGE to Vertex AI's container contract (INSTANCES=file, RIGHTS=least)
	$(BIN)/python -m contract $(IMAGE) --docker $(DOCKER) --instances $(INSTANCES) --junit build/contract.xml --rights $(RIGHTS)

faults: .venv/ready ## break a container of IMAGE in every known way, under load (ARGS="--only nginx")
	$(BIN)/python -m benchmarks.faults $(IMAGE) --docker $(DOCKER) $(ARGS)

tune: .venv/ready $(ARCHIVE) ## find the layout that is best on this machine (ARGS="--objective latency"); it goes into the archive
	$(BIN)/python -m benchmarks.tune $(ARGS)

PEERS := build/bench/venv
BENCH = $(BIN)/python -m benchmarks --docker $(DOCKER) $(ARGS)

bench: .venv/ready $(ARCHIVE) $(PEERS)/ready ## put ours beside the bare model, stock TorchServe and the peers (ARGS="--rounds 3 --workload REAL")
	@if $(DOCKER) info >/dev/null 2>&1; then $(MAKE) --no-print-directory build && $(BENCH) --image $(IMAGE); \
	  else echo "no Docker engine answers: ours runs without its container and without nginx"; $(BENCH); fi

start: .venv/ready $(ARCHIVE) ## measure the start of IMAGE to its first right answer, and its size
	$(BIN)/python -m benchmarks.startup $(IMAGE) --docker $(DOCKER) $(ARGS)

scaling: .venv/ready $(ARCHIVE) ## measure IMAGE as instances, pictures, clients, rate and time grow (ARGS="--axes clients,overload")
	$(BIN)/python -m benchmarks.scaling $(IMAGE) --docker $(DOCKER) $(ARGS)

# What of ours the peers call is imported from .venv: torch and Pillow are the same for all.
$(PEERS)/ready: requirements/bench.lock .venv/ready
	$(BIN)/python -m venv $(PEERS)
	@$(call install,$(PEERS),$(call LOCKED,bench))
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	@touch $@

# Most of the time is waiting, for a container or a server to start: more workers than cores.
WORKERS ?= 4
TESTS ?= tests
# The tests run make too, which must not take over what this make was given.
PYTEST = env -u ARGS -u TESTS -u WORKERS -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(TESTS)
TESTED := .venv/ready $(ARCHIVE) build/kubernetes/ready $(KFP)/ready

test: $(TESTED) ## run the tests that take less than ten minutes in all (TESTS=tests/unit, WORKERS=4, ARGS=)
	$(PYTEST) -m "not full" $(ARGS)

test-all: test ## run all tests: those of make test, then the long ones
	$(PYTEST) -m full $(ARGS)

lint: .venv/ready ## check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready ## lay the code out as lint wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/ready ## pin the newest versions of pyproject.toml's groups into requirements/
	for group in $(LOCKS); do case $$group in local) of=serve;; dev) of=local;; *) of=;; esac; \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url $${of:+--constraint requirements/$$of.lock} \
	  --custom-compile-command "make lock" --python-version 3.11 --group $$group -o requirements/$$group.lock || exit 1; done

clean: ## remove what was built (the virtual environment stays)
	rm -rf build
