# SPDX-License-Identifier: Apache-2.0
# Every target installs what it needs first; downloads and builds are cached outside the repository.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flowferry
VENV := $(CACHE)/venv-$(shell sha256sum requirements.lock.txt | cut -c1-12)
export PATH := $(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/p4
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

# clang, libbpf and bpftool: the embedded switch; mmdebstrap: the lab's root; gcc and libseccomp: CRI-O; the rest:
# lab and tests.
PACKAGES := python3-venv git mmdebstrap clang llvm libbpf1 libbpf-dev bpftool gcc libc6-dev libseccomp-dev iproute2 \
            ethtool openssh-client tcpdump podman uidmap debian-archive-keyring ca-certificates zstd
SWITCH ?= 198.18.0.2:9559

.PHONY: help
help: ## explain the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: packages
packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	  [ "$$(id -u)" = 0 ] || { echo "run as root, or install first: apt-get install" $$missing; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

# Its name has the hash of the lock file, so that a file that exists is up to date.
$(VENV)/.ready:
	@echo "python packages into $(VENV)"
	@python3 -m venv $(VENV) && $(VENV)/bin/pip install -q --disable-pip-version-check -r requirements.lock.txt && touch $@

.PHONY: install
install: packages $(VENV)/.ready

.PHONY: demo
demo: lab ## a live Redis moves between two nodes and its clients stay connected
	python3 -m demo.run

.PHONY: bench
bench: install ## measure moves, and the same by hand: writes docs/results.md (up to 10 minutes)
	ansible-playbook playbooks/lab.yml -e lab_runtimes=podman,docker
	ansible-playbook playbooks/benchmark.yml -e '{"benchmark_command": "make bench"}'

.PHONY: bench-pods
bench-pods: install ## the same for pods, in the Kubernetes lab: writes docs/results-pods.md (up to 15 minutes)
	ansible-playbook playbooks/lab.yml -e lab=kubernetes
	ansible-playbook playbooks/benchmark.yml -e '{"benchmark_lab": "kubernetes", "benchmark_command": "make bench-pods"}'
ifneq (,$(findstring crio,$(RUNTIMES)))
	ansible-playbook playbooks/teardown.yml
	ansible-playbook playbooks/lab.yml -e lab=kubernetes -e cluster_runtime=crio
	ansible-playbook playbooks/benchmark.yml \
	  -e '{"benchmark_lab": "crio", "benchmark_command": "make bench-pods RUNTIMES=containerd,crio"}'
	ansible-playbook playbooks/teardown.yml
endif

.PHONY: test
test: lint lab-root ## everything: lint, unit, integration and system tests, roles
	python3 -m tests.stages

.PHONY: lint
lint: install ## ruff, mypy, yamllint, ansible-lint (production profile), antsibull-docs
	ruff check .
	ruff format --check .
	mypy -p flowferry_p4 -p benchmark -p demo
	mypy -p ansible_collections.flowferry.core.plugins.module_utils
	yamllint -s .
	ansible-lint -q
	antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck collections/ansible_collections/flowferry/core

.PHONY: unit
unit: install ## tests that need neither root nor a switch
	pytest tests/unit

.PHONY: integration
integration: install ## tests against a running switch, in network namespaces of their own (root)
	pytest tests/integration

.PHONY: system
system: install ## tests of the lab and of migrations (root)
	pytest tests/system

.PHONY: molecule
molecule: install ## the roles: each converges, changes nothing when it runs again, and is used (root)
	molecule test --all

.PHONY: lab
lab: install ## build and start the embedded lab
	ansible-playbook playbooks/lab.yml

.PHONY: lab-root
lab-root: install ## build what the lab's hosts are made of; tests take pycriu from there (root)
	ansible-playbook playbooks/lab_root.yml

.PHONY: lab-status
lab-status: install ## what the lab is made of and what runs in it
	ansible-playbook playbooks/lab_status.yml

.PHONY: clean
clean: install ## end the lab; leaves nothing but the cache
	ansible-playbook playbooks/teardown.yml

.PHONY: p4
p4: install ## compile the P4 program (needs p4c on PATH)
	python3 p4/compile.py

.PHONY: role-pages
role-pages: install ## write docs/roles from the roles' argument_specs
	python3 tools/role_pages.py

# Versions that the lock file has are kept as long as requirements.txt lets them be, so that the same two files
# give the same file again. UPGRADE=1 takes the newest. In another Python versions would differ.
.PHONY: lock
lock: ## write requirements.lock.txt from requirements.txt; UPGRADE=1 for newer versions
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && python3.11 -m venv $$tmp/venv && \
	$$tmp/venv/bin/pip install -q --disable-pip-version-check $(if $(UPGRADE),,-c requirements.lock.txt) -r requirements.txt && \
	{ echo "# Written by \`make lock\` from requirements.txt, for Python 3.11. Do not edit."; \
	  $$tmp/venv/bin/pip freeze | LC_ALL=C sort -f; } > $$tmp/lock && \
	cp $$tmp/lock requirements.lock.txt
