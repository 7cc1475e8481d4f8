# Understudy: every target installs or builds what it needs and says so. If it cannot, it ends with one clear line.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
VENV := .venv
IMAGE := understudy:local
LAB_IMAGE := understudy-lab:local
S3_IMAGE := understudy-s3:local
TARGET_IMAGE := understudy-target:local
COMPOSE := docker compose -f docker/compose.yml
LAB := $(COMPOSE) -f docker/compose.lab.yml
# A separate project: the demo begins with empty volumes, and must not touch the data of an appliance started by `make up`.
DEMO := $(LAB) --project-name understudy-demo
SHELL_SCRIPTS = $(shell git ls-files '*.sh' .ci/run)
DOCKERFILES = $(shell git ls-files '*Dockerfile')
YAML_FILES = $(shell git ls-files '*.yml')

.PHONY: help
help: ## show this list
	@echo 'Understudy: a standby PACS appliance. Targets:'
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: engine
engine: ## make a Docker Engine with Compose v2 and buildx available
	@docker/engine.sh

.PHONY: image
image: engine ## build the appliance's image
	@docker/build.sh $(IMAGE) docker/Dockerfile .

.PHONY: sbom
sbom: image ## copy the image's bill of materials and licences to build/sbom/
	@mkdir -p build/sbom
	@docker run --rm --network none --entrypoint tar $(IMAGE) -C /usr/share/doc/understudy -c . | tar -x --no-same-owner -C build/sbom
	@echo 'sbom: build/sbom/sbom.cdx.json and build/sbom/licences.txt'

.PHONY: lab-images
lab-images: lab-image s3-image ## build the lab's images: DICOM parties, S3

.PHONY: lab-image
lab-image: engine
	@docker/build.sh $(LAB_IMAGE) docker/lab/dicom/Dockerfile docker/lab/dicom

.PHONY: s3-image
s3-image: engine
	@docker/build.sh $(S3_IMAGE) docker/lab/s3/Dockerfile docker/lab/s3

.PHONY: target-image
target-image: engine
	@docker/build.sh $(TARGET_IMAGE) tests/ansible/Dockerfile tests/ansible

# The stamp is newer than the lock it was installed from.
$(VENV)/installed: tests/requirements.lock
	@tests/tools/venv.sh $(PYTHON) $(VENV)

.PHONY: venv
venv: $(VENV)/installed

.PHONY: browser
browser:
	@tests/tools/packages.sh chromium

.PHONY: tracer
tracer:
	@tests/tools/packages.sh strace

.PHONY: fuse
fuse:
	@tests/tools/packages.sh bindfs

.PHONY: ssh
ssh:
	@tests/tools/packages.sh ssh=openssh-client openssl

.PHONY: vagrant
vagrant:
	@tests/tools/packages.sh vagrant

.PHONY: style
style: venv
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet .
	@echo 'style: ruff has nothing to say'

.PHONY: types
types: venv
	@$(VENV)/bin/mypy

# Runs the tests that need no container, except the long ones, on every core. Their files are in memory if /dev/shm exists:
# `make test` tries the disk. Python keeps its compiled files, whatever the environment says, which saves 15 s.
.PHONY: pure
pure: venv
	@env -u PYTHONDONTWRITEBYTECODE TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) \
	$(VENV)/bin/pytest --numprocesses auto --dist worksteal -q \
	--override-ini tmp_path_retention_policy=failed -m 'not long and not longer' tests/unit tests/fuzz tests/simulation

.PHONY: quick
# The target installs nothing outside $(VENV).
quick: export INSTALL_PACKAGES := no
quick: venv ## check style and types and run the pure tests, side by side
	@$(MAKE) --jobs=3 --keep-going --output-sync=target style types pure

.PHONY: lint
lint: venv vagrant ## check style, types, shell scripts, Dockerfiles, plays and Vagrantfile
	@echo 'lint: ruff, mypy, shellcheck, hadolint, yamllint, ansible-lint, vagrant'
	@$(MAKE) style types
	@$(VENV)/bin/shellcheck $(SHELL_SCRIPTS)
	@$(VENV)/bin/hadolint $(DOCKERFILES)
	@$(VENV)/bin/yamllint --strict $(YAML_FILES)
	@cd ansible && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ansible-lint -q
	@VAGRANT_HOME=$(CURDIR)/build/vagrant vagrant validate --ignore-provider >/dev/null

# Makes only the targets that the chosen tests need (`pytest.mark.needs`), one at a time, because some install packages.
CHOSEN = $(TEST_ARGUMENTS)
.PHONY: needed
needed: venv
	@needs=$$($(VENV)/bin/python -m tests.tools.needs $(CHOSEN)); [ -z "$$needs" ] || $(MAKE) --jobs=1 $$needs

.PHONY: test
ifdef TEST_ARGUMENTS
test: needed
	@$(VENV)/bin/pytest $(CHOSEN)
else
# Tests in containers have deadlines, so nothing else runs at the same time. The adversary and the drills come last: they
# measure how soon intake answers.
test: ## lint, and run the tests but those of the plays; starts and stops all they need
	@tests/tools/python.sh $(PYTHON)
	@$(MAKE) --jobs=3 checked peers parts
	@$(VENV)/bin/pytest tests/ansible tests/integration tests/story
	@$(VENV)/bin/pytest tests/adversary tests/drills
endif

# The checks that need no container, at the same time as the builds of images. Their output appears in one piece at the end.
.PHONY: checked
checked: lint
	@mkdir -p build
	@nice -n 19 $(VENV)/bin/pytest --numprocesses 2 --dist worksteal -q tests/unit tests/fuzz tests/simulation \
	>build/checked.log 2>&1 || failed=$$?; cat build/checked.log; exit $${failed:-0}

# The tests that use sockets and have time-outs.
.PHONY: peers
peers: venv
	@mkdir -p build
	@$(VENV)/bin/pytest tests/contract tests/peer >build/peers.log 2>&1 || failed=$$?; \
	cat build/peers.log; exit $${failed:-0}

# One target at a time, because they install packages.
.PHONY: parts
parts: image
	@$(MAKE) --jobs=1 lab-images browser tracer fuse

.PHONY: ansible-test
ansible-test: CHOSEN = $(or $(TEST_ARGUMENTS),tests/ansible) -m 'longer or not longer'
ansible-test: needed ## run the plays against a host in a container: what `make test` leaves out
	@$(VENV)/bin/pytest $(CHOSEN)

.PHONY: vm-test
vm-test: venv image ## run the play against a virtual Debian, and pull its plug in the middle of intake
	@tests/tools/packages.sh qemu-system-x86_64=qemu-system-x86 mmdebstrap mke2fs=e2fsprogs ssh-keygen=openssh-client
	@$(VENV)/bin/python -m tests.vm

.PHONY: drills
drills: venv image lab-images tracer ## power cuts, kills, a siege and full disks, at full length
	@DRILL_POWERCUTS=$${DRILL_POWERCUTS:-50} DRILL_KILLS=$${DRILL_KILLS:-30} DRILL_STORM=$${DRILL_STORM:-20} DRILL_FAULTS=$${DRILL_FAULTS:-15} \
	$(VENV)/bin/pytest tests/drills

# Seven minutes for each of the six generators, five minutes for each request that is held open.
.PHONY: adversary
adversary: venv image ## attack a running appliance for an hour, by generators with a new seed and by who attacks
	@ADVERSARY_SECONDS=$${ADVERSARY_SECONDS:-300} ADVERSARY_HELD=$${ADVERSARY_HELD:-300} \
	ADVERSARY_SEED=$${ADVERSARY_SEED:-$$RANDOM} $(VENV)/bin/pytest tests/adversary \
	tests/integration/test_apart.py tests/integration/test_vault_attacked.py tests/unit/test_ansible_volumes.py
	@$(VENV)/bin/python -m tests.adversary.faults

.PHONY: simulate
simulate: venv ## let a simulated clinic live through 100,000 outages of its PACS, from a new seed
	@PYTHONPATH=plugins $(VENV)/bin/python -m tests.simulation --outages $${SIMULATE_OUTAGES:-100000}

.PHONY: bench
bench: venv image lab-images ## measure intake, delivery, vault, ledger and a large index
	@$(VENV)/bin/python -m tests.bench

.PHONY: bench-quick
bench-quick: venv image lab-images ## measure intake, delivery, vault and ledger in 4 minutes; fail where one fell to half
	@$(VENV)/bin/python -m tests.bench.quick

.PHONY: bench-scale
bench-scale: venv image lab-images ## measure intake and queries with a million instances in the index
	@BENCH_FILL=$${BENCH_FILL:-1000000} $(VENV)/bin/python -m tests.bench scale

.PHONY: demo
demo: venv image lab-images browser ## play a whole outage on real DICOM; leaves the lab running
	@$(VENV)/bin/python -m tests.demo

.PHONY: up
up: image ## start the appliance on embedded defaults
	@$(COMPOSE) up --detach --wait
	@echo "up: DICOM on port $${UNDERSTUDY_DICOM_PORT:-4242}, viewer and console on https://localhost:$${UNDERSTUDY_HTTPS_PORT:-8443}/"
	@echo "up: the administrator's password, shown once: $(COMPOSE) exec agent understudy first-start"

.PHONY: down
down: ## stop appliance, lab and demo; their data stays
	@command -v docker >/dev/null || { echo 'down: no Docker here, nothing runs'; exit 0; }; $(LAB) down --remove-orphans; $(DEMO) down --remove-orphans

.PHONY: clean
clean: ## remove appliance, lab and demo with ALL their data, the images and the tools' environment
	@command -v docker >/dev/null || exit 0; $(LAB) down --remove-orphans --volumes; $(DEMO) down --remove-orphans --volumes; \
	for image in $(IMAGE) $(LAB_IMAGE) $(S3_IMAGE) $(TARGET_IMAGE); do docker image rm "$$image" >/dev/null 2>&1 || true; done
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: lock
lock: ## renew the locked versions of all Python dependencies
	@tests/tools/lock.sh $(PYTHON)

.PHONY: docs
docs: venv ## renew the generated parts of the reference pages
	@PYTHONPATH=plugins $(VENV)/bin/python -m tests.tools.reference_pages
	@$(VENV)/bin/python -m tests.tools.role_readmes
