# Every recipe runs in the dev image (e2e/in-dev just test), and on any host with Rust, just, and Postgres 17 with its headers.

export PGRX_PG_CONFIG_PATH := env("PGRX_PG_CONFIG_PATH", "/usr/lib/postgresql/17/bin/pg_config")
target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# Lists the recipes.
default:
    @just --list --unsorted

# Formats, lints, generated files. Reads only.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    shellcheck --severity=warning quickstart test .ci/run e2e/in-dev e2e/kind/lib.sh $(grep -lI '^#!/bin/bash' e2e/kind/* e2e/kind/node/* 2>/dev/null)
    cargo run --quiet --locked -p pgraft-operator -- crd | diff -u crds/pgraftclusters.yaml -
    diff -u crds/pgraftclusters.yaml charts/pgraft-operator/files/pgraftclusters.yaml
    if command -v helm >/dev/null; then helm lint --strict charts/pgraft-operator; fi

# Unit tests, then tests with real Postgres servers. The extension is installed into the Postgres of pg_config, so it runs as root.
test: install
    PGRAFT_TEST_BINDIR="$($PGRX_PG_CONFIG_PATH --bindir)" cargo test --workspace --locked --no-fail-fast

# Builds the extension and installs it into the Postgres of pg_config.
install:
    cargo build --locked -p pgraft
    install -m 755 {{target}}/debug/libpgraft.so "$($PGRX_PG_CONFIG_PATH --pkglibdir)/pgraft.so"
    install -m 644 extension/pgraft.control extension/sql/*.sql "$($PGRX_PG_CONFIG_PATH --sharedir)/extension/"

# The scenarios on the cluster of KUBECONFIG: all of them, or those that are named.
e2e *scenarios:
    cargo run --locked -p pgraft-e2e -- {{scenarios}}

# The images that ship.
images:
    e2e/kind/base-images debian:trixie-slim rust:1.95-slim-trixie
    e2e/kind/build --target postgres -t pgraft/postgres:dev .
    e2e/kind/build --target operator -t pgraft/operator:dev .

# Writes the generated files anew.
generate:
    cargo run --quiet -p pgraft-operator -- crd > crds/pgraftclusters.yaml
    cp crds/pgraftclusters.yaml charts/pgraft-operator/files/

# Formats, and mends what clippy can mend.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all
