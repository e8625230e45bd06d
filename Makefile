# Shortcuts for common tasks. Each is a go command or a script that also works without
# make.
FUZZTIME   ?= 1m
SOAKTIME   ?= 10m
SOAKFLAGS  ?=
BENCH      ?= .
BENCHFLAGS ?=
DEMOFLAGS  ?=
LINTFLAGS  ?=
PROMETHEUS ?= http://localhost:9090
PICTURES   ?= $(CURDIR)/dashboards
MODULE     ?=

.PHONY: help test short race bench fuzz soak demo lint fmt tidy golden pictures module ci

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## run all tests
	go test ./...

short: ## run the tests without the cluster and the soak
	go test -short ./...

race: ## run the short tests under the race detector; needs a C compiler
	go test -race -short -count=1 ./...

bench: ## run the benchmarks; BENCH=Publish BENCHFLAGS='-count 10'
	go test -run '^$$' -bench '$(BENCH)' $(BENCHFLAGS) ./...

fuzz: ## run each fuzz test for FUZZTIME=1m
	@set -e; for f in $$(go test -list '^Fuzz' ./broker | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./broker; \
	done
	go test -run '^$$' -fuzz '^FuzzRawMessage$$' -fuzztime $(FUZZTIME) ./metrics

soak: ## inject faults for SOAKTIME=10m, then count every message; SOAKFLAGS='-servers 1 -v'
	go run ./examples/soak -d $(SOAKTIME) $(SOAKFLAGS)

demo: ## run three services until Ctrl-C, or DEMOFLAGS='-n 1000' orders
	go run ./examples/demo $(DEMOFLAGS)

lint: ## run the linter, see .golangci.yml; LINTFLAGS=--fix fixes what it can
	bash .ci/lint $(LINTFLAGS)

fmt: ## format the Go code
	gofmt -w .

tidy: ## tidy go.mod and go.sum
	go mod tidy

golden: ## update the golden files of the tests: the exported API, the dashboards
	go test . -run '^TestAPI$$' -update
	go generate ./...

pictures: ## draw the dashboards from the data of PROMETHEUS=http://localhost:9090; needs Node and Chromium
	cd dashboards/picture && npm ci --ignore-scripts --no-audit --no-fund
	cd dashboards/picture && node draw.mjs ../grafana/overview.json $(PROMETHEUS) $(PICTURES)/overview.png
	cd dashboards/picture && VARIABLES='{"topic": "payments.taken", "queue": "shipping"}' \
		node draw.mjs ../grafana/consumer.json $(PROMETHEUS) $(PICTURES)/consumer.png

module: ## rename the module, so that a fork can be fetched: MODULE=github.com/you/go-micro-jetstream
	go run ./internal/rename $(MODULE)

ci: ## run every check that must pass before a change lands
	bash .ci/run
