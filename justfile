# Recipes run in the dev image (hack/in-dev just test), and on any host with Rust, just, and Postgres 17 with its headers.

export PGRX_PG_CONFIG_PATH := env("PGRX_PG_CONFIG_PATH", "/usr/lib/postgresql/17/bin/pg_config")
target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# Lists the recipes.
default:
    @just --list --unsorted

# Checks formats, lints and generated files. Changes nothing.
verify:
    cargo fmt --all --check
    # Two runs, since the simulation enables a feature of pgraft-raft, and released code is linted without it.
    cargo clippy --workspace --exclude pgraft-sim --all-targets --locked -- -D warnings
    cargo clippy -p pgraft-sim -p pgraft-raft --features pgraft-raft/sim --all-targets --locked -- -D warnings
    shellcheck --severity=warning quickstart test hack/offline-kind/lib.sh $(grep -rlI "^#!/bin/bash" .ci hack)
    cd extension/sql && if grep -q '^[^#]' RELEASED; then grep '^[^#]' RELEASED | sha256sum --strict --quiet --check; fi
    cargo run --quiet --locked -p pgraft-operator -- crd | diff -u crds/pgraftclusters.yaml -
    diff -u crds/pgraftclusters.yaml charts/pgraft-operator/files/pgraftclusters.yaml
    cargo run --quiet --locked -p pgraft-docs -- check
    if command -v mdbook >/dev/null; then mdbook build docs --dest-dir {{target}}/book; fi
    if command -v helm >/dev/null; then helm lint --strict charts/pgraft-operator; fi

# Runs unit tests and tests with real Postgres servers. Installs the extension into the Postgres of pg_config, so it runs as root.
test: install
    PGRAFT_TEST_BINDIR="$($PGRX_PG_CONFIG_PATH --bindir)" cargo test --workspace --exclude pgraft-sim --locked --no-fail-fast
    cargo test --profile sim --locked -p pgraft-sim
    cargo test --profile sim --locked -p pgraft-raft --features sim --lib simulated

# Lints the extension for the other Postgres majors that are installed, and tests it with the newest.
majors:
    hack/majors

# Builds the extension and installs it into the Postgres of pg_config.
install profile="dev":
    cargo build --locked -p pgraft --profile {{profile}}
    install -m 755 {{target / replace(profile, "dev", "debug")}}/libpgraft.so "$($PGRX_PG_CONFIG_PATH --pkglibdir)/pgraft.so"
    install -m 644 extension/pgraft.control extension/sql/*.sql "$($PGRX_PG_CONFIG_PATH --sharedir)/extension/"

# Explores the model of the failover protocol: `just model walk None 3 7 6 3 2 3 1 0 150 60 1`. crates/core/tests/failover/main.rs explains the arguments.
model *what:
    MODEL="{{what}}" cargo test --release --locked -p pgraft-core --test failover -- --ignored --nocapture by_hand

# Simulates clusters under faults: `just sim 1000` runs 1000 seeds, `just sim 1000 from 4711` begins after seed 4711, `just sim seed 4711` prints the story of one, `just sim script 'start 3 · crash 1'` runs a script. With `failover` first (`just sim failover 1000`), the clusters have servers and choose their primary.
[positional-arguments]
sim *what="1000":
    cargo run --profile sim --quiet --locked -p pgraft-sim -- "$@"

# Fuzzes the code that reads untrusted bytes and damaged files: frames, handshake, log, records, control, snapshot, identity or startup. Needs cargo-fuzz.
fuzz target seconds="60":
    PGRAFT_FUZZ_SEEDS="{{justfile_directory()}}/fuzz/seeds" cargo test --quiet --locked -p pgraft-raft --lib -- --ignored --exact fuzz::tests::write_seeds
    mkdir -p fuzz/corpus/{{target}} fuzz/seeds/{{target}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run --dev --sanitizer none {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- -max_total_time={{seconds}} -max_len=16384

# Runs the scenarios on the cluster of KUBECONFIG: all of them, or the named ones.
e2e *scenarios:
    cargo run --locked -p pgraft-e2e -- {{scenarios}}

# Measures and prints, in a release build: failover, failover-rw, overhead, membership, worker, operator, scale, disk; `just bench help` lists them, `just bench NAME --help` shows the options.
bench name *options:
    {{ if name =~ "^(failover|overhead|membership|worker)$" { quote(just_executable()) + " install release" } else { "true" } }}
    {{ if name =~ "^(failover|overhead|worker)$" { "cargo build --release --locked -p pgraft-instance" } else { "true" } }}
    {{ if name == "operator" { "cargo build --release --locked -p pgraft-operator" } else { "true" } }}
    PGRAFT_TEST_BINDIR="$($PGRX_PG_CONFIG_PATH --bindir)" cargo run --quiet --release --locked -p pgraft-bench -- {{name}} {{options}}

# Builds the released images.
images:
    hack/offline-kind/base-images debian:trixie-slim rust:1.95-slim-trixie
    hack/offline-kind/build --target postgres -t pgraft/postgres:dev .
    hack/offline-kind/build --target operator -t pgraft/operator:dev .

# Builds the book in target/book.
book:
    mdbook build docs --dest-dir {{target}}/book

# Updates the generated files: the CRD and the generated sections of docs/. The ones that come from a server need `install` first.
generate:
    cargo run --quiet -p pgraft-operator -- crd > crds/pgraftclusters.yaml
    cp crds/pgraftclusters.yaml charts/pgraft-operator/files/
    cargo run --quiet -p pgraft-docs -- write
    PGRAFT_WRITE_DOCS=1 PGRAFT_TEST_BINDIR="$($PGRX_PG_CONFIG_PATH --bindir)" cargo test -p pgraft --test reference

# Applies clippy's suggestions and formats.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all
