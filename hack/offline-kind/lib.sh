# Sourced by the scripts of this folder, by quickstart and by test: how they speak, wait and find Docker. Changes nothing by itself.
# shellcheck shell=bash disable=SC2034 # what it sets is used by who sources it
set -euo pipefail

KIND_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$KIND_DIR/../.." && pwd)
WORK=$ROOT/.work
NODE_IMAGE=pgraft/kind-node:v1.34.4
DOCKER_NETWORK=pgraft
export KIND_EXPERIMENTAL_DOCKER_NETWORK=$DOCKER_NETWORK
export PGRAFT_STARTED=${PGRAFT_STARTED:-$(date +%s)}

elapsed() { local s=$(($(date +%s) - PGRAFT_STARTED)); printf '%2dm%02ds' $((s / 60)) $((s % 60)); }
say() { printf '[%s] %s\n' "$(elapsed)" "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# step NAME LIMIT "what is being done" COMMAND...: runs it with its output in .work/log/NAME.log, says every half minute where it is, and
# shows the end of the log when it fails or takes longer than LIMIT (as `timeout` reads it).
step() {
  local name=$1 limit=$2 title=$3 log=$WORK/log/$1.log began waited=0 code=0
  shift 3
  mkdir -p "$WORK/log"
  began=$(date +%s)
  say "$title"
  # In a session of its own, so that what it started ends with it.
  setsid timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  trap 'kill -TERM -- -'"$pid"' 2>/dev/null || true' EXIT
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    waited=$((waited + 1))
    if ((waited % 150 == 0)); then say "  ... $(tail -c 2000 "$log" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c -120)"; fi
  done
  wait "$pid" || code=$?
  trap - EXIT
  STEP_SECONDS=$(($(date +%s) - began))
  ((code == 0)) && return 0
  tail -n 60 "$log" >&2
  ((code == 124 || code == 137)) && say "$name: given up after $limit"
  say "$name failed (exit $code); all of its output: ${log#"$ROOT"/}"
  return "$code"
}

# install_packages NAME...: Debian's and Ubuntu's packages; else one line that says what is missing.
install_packages() {
  have apt-get || die "please install: $*"
  [ "$(id -u)" = 0 ] || die "please run this as root, or: apt-get install $*"
  say "installing $*"
  apt-get update -qq >/dev/null || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# What a minimal machine lacks and every download needs.
need_certificates() { [ -s /etc/ssl/certs/ca-certificates.crt ] || install_packages ca-certificates; }

# need COMMAND PACKAGE
need() { have "$1" || install_packages "$2"; }

# The Docker client that builds with BuildKit. Some clients need a plugin for it, Debian 12's does not, and a machine may have both.
find_builder() {
  [ -n "${DOCKER_BUILDER:-}" ] && return
  local client
  for client in docker /usr/bin/docker; do
    if have "$client" && printf 'FROM scratch\nLABEL probe=1\n' | DOCKER_BUILDKIT=1 "$client" build -q - >/dev/null 2>&1; then
      export DOCKER_BUILDER=$client
      return
    fi
  done
  return 1
}

# build_image ARGUMENTS of `docker build`: what it makes is labelled, so that it can be found and removed again.
build_image() {
  find_builder || install_packages docker-buildx
  find_builder || die "this Docker client can't build with BuildKit: please install Docker's buildx plugin"
  DOCKER_BUILDKIT=1 "$DOCKER_BUILDER" build --network host --label io.pgraft.made=here "$@"
}

# Whether an image registry answers, and soon: asked once, remembered for the scripts that this one calls.
registry_answers() {
  if [ -z "${PGRAFT_REGISTRY:-}" ]; then
    PGRAFT_REGISTRY=no
    timeout 15 docker manifest inspect debian:trixie-slim >/dev/null 2>&1 && PGRAFT_REGISTRY=yes
    export PGRAFT_REGISTRY
    [ "$PGRAFT_REGISTRY" = yes ] || say "no image registry answers: images are built here, from Debian packages and Go modules"
  fi
  [ "$PGRAFT_REGISTRY" = yes ]
}

# find_go: puts a Go that can build components/ on PATH. Any Debian's own Go can fetch a newer one: toolchains are Go modules.
GO_TOOLCHAIN=go1.24.13
find_go() {
  local dir
  if ! have go && [ -x /usr/local/go/bin/go ]; then PATH=$PATH:/usr/local/go/bin; fi
  need go golang-go
  need_certificates
  export GOTOOLCHAIN=local CGO_ENABLED=0
  case $(go env GOVERSION) in go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.2[0-3]*) ;; *) return 0 ;; esac
  say "fetching $GO_TOOLCHAIN: $(go env GOVERSION) is too old"
  dir=$(cd / && go mod download -json "golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$(go env GOARCH)" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
  [ -d "$dir" ] || die "please install Go 1.24 or newer"
  chmod -R u+x "$dir/bin" "$dir/pkg/tool" # a module's files have no execute bits
  PATH=$dir/bin:$PATH
}

# go_build MODULE PACKAGE OUTPUT [LDFLAGS]: MODULE is a folder of components/, its go.sum pins what is built.
go_build() {
  say "building ${3##*/} from Go modules"
  (cd "$KIND_DIR/components/$1" && go build -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$3" "$2")
}
