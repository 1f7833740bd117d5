# make demo    plays the getting-started story with real processes
# make test    everything that must pass: formatting, vet, unit tests with the
#              race detector, and end to end with swtpm and the real OpenSSH
# make check   what needs the developer tools: linters, generated code
# The rest: build e2e fuzz bench generate install build-all clean

SHELL      := /bin/bash
GO         ?= go
PREFIX     ?= /usr/local
FUZZTIME   ?= 30s
BENCHCOUNT ?= 3
# Benchmarks that take long to set up, or long; they run once.
LARGE      := Million|Sync100k|ManyIdle|SFTP|Fleet
# A release sets VERSION; otherwise it is the one in cmd/internal/cli.
VERSION    ?=
REVISION   ?= $(shell git describe --always --dirty --exclude='*' 2>/dev/null)

PROGRAMS := dtauthd dtnoded dtsh dtctl
TOOL     := $(GO) tool -modfile=tools.mod
LINT     := $(GO) tool -modfile=lint.mod golangci-lint
BUILD    := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false \
            -ldflags '-s -w -X devicetrust/cmd/internal/cli.Revision=$(REVISION) \
            $(if $(VERSION),-X devicetrust/cmd/internal/cli.Version=$(VERSION))'
# Our packages, without the end-to-end tests, which want the programs built.
UNIT     := $$($(GO) list ./... | grep -v '^devicetrust/e2e')

.PHONY: all build pam demo test unit format vet e2e e2e-race check lint generated generate \
        fuzz bench install build-all packages-demo packages-test clean

all: build

build:
	$(BUILD) -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

# PAM's part is in C, and a program of its own (docs/decisions/0011); without it
# there is all but PAM. It wants libpam0g-dev.
pam: bin/dtnoded-pam

bin/dtnoded-pam: node/pam/dtnoded-pam.c
	mkdir -p bin
	$(CC) -std=gnu11 -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE -pie -Wl,-z,relro,-z,now \
	  -Wall -Wextra -Werror -o $@ $< -lpam

# KEEP=1 leaves the cluster running and prints how to use it.
demo: packages-demo build
	@$(GO) run ./e2e/demo -bin bin $(if $(filter 1,$(KEEP)),-keep)

test: packages-test format vet pam unit e2e

format:
	@echo 'gofmt -l .'; bad=$$(gofmt -l .); test -z "$$bad" || { echo "not formatted (gofmt -w): $$bad"; exit 1; }

vet:
	$(GO) vet ./...

unit:
	CGO_ENABLED=1 $(GO) test -race $(UNIT)

e2e: packages-test build pam
	DT_E2E_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout=15m ./e2e/...

# The same, with programs that look for data races; what they find is in their
# logs, where the scripts look. Without GORACE each would sleep for a second at its
# end, and the scripts run thousands.
e2e-race: packages-test pam
	CGO_ENABLED=1 $(GO) build -race -buildvcs=false -o bin/race/ $(addprefix ./cmd/,$(PROGRAMS))
	cp bin/dtnoded-pam bin/race/
	GORACE=atexit_sleep_ms=0 DT_E2E_BIN=$(CURDIR)/bin/race $(GO) test -count=1 -timeout=15m ./e2e

check: format vet lint generated

lint:
	$(LINT) run ./...
	$(TOOL) buf lint

# Generated code is committed; this fails where it is not what the protos say.
generated:
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(TOOL) buf generate -o "$$out" && diff -r "$$out/api/dtv1" api/dtv1 && \
	echo 'generated code is up to date'

generate:
	$(TOOL) buf generate

# Minimizing is bounded, or most of the time goes into it.
fuzz:
	@set -e; for package in $(UNIT); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$package; \
	  done; done

bench: packages-test build
	@set -o pipefail; { DT_E2E_BIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -skip '$(LARGE)' -count=$(BENCHCOUNT) -timeout=30m \
	  ./ca ./devices ./identity/krl ./policy ./node ./node/sshd ./e2e && DT_E2E_BIN=$(CURDIR)/bin $(GO) test -run '^$$' -bench '$(LARGE)' -timeout=30m ./devices ./devices/mdm ./node ./e2e; } | \
	  $(GO) run ./e2e/benchtable

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(addprefix bin/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin/
	if [ -e bin/dtnoded-pam ]; then \
	  install -D -m 0755 bin/dtnoded-pam $(DESTDIR)$(PREFIX)/libexec/dtnoded-pam; fi

# The daemons run on Linux; people's machines are more than that.
build-all:
	@set -e; for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do \
	  case $$target in linux/*) programs='$(PROGRAMS)';; *) programs='dtsh dtctl';; esac; \
	  for program in $$programs; do \
	    echo "$$target $$program"; \
	    GOOS=$${target%/*} GOARCH=$${target#*/} $(BUILD) -o bin/$${target/\//-}/ ./cmd/$$program; \
	  done; done

# Each word is COMMAND:PACKAGE, see the script.
packages-demo:
	@e2e/packages.sh swtpm:swtpm ssh:openssh-client

packages-test:
	@e2e/packages.sh swtpm:swtpm swtpm_setup:swtpm-tools ssh:openssh-client sshd:openssh-server \
	  /usr/lib/openssh/sftp-server:openssh-sftp-server rsync:rsync sshfs:sshfs git:git ansible:ansible-core \
	  plink:putty-tools dbclient:dropbear-bin /usr/lib/python3/dist-packages/paramiko/__init__.py:python3-paramiko \
	  '/usr/lib/postgresql/*/bin/initdb:postgresql' curl:curl ssh-audit:ssh-audit \
	  gcc:gcc /usr/include/stdlib.h:libc6-dev /usr/include/security/pam_appl.h:libpam0g-dev \
	  xauth:xauth who:coreutils last:util-linux lastlog:login

clean:
	rm -rf bin
