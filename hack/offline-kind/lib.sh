# Functions for the scripts of this folder, quickstart and test. Sourcing it changes nothing on the machine.
# shellcheck shell=bash disable=SC2034 # variables are used by the scripts that source it
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

# step NAME LIMIT TITLE COMMAND...: runs a command with its output in .work/log/NAME.log. Prints the latest line of the log every half minute,
# and the end of the log if the command fails or exceeds LIMIT (in the format of `timeout`).
step() {
  local name=$1 limit=$2 title=$3 log=$WORK/log/$1.log began waited=0 code=0
  shift 3
  mkdir -p "$WORK/log"
  began=$(date +%s)
  say "$title"
  # In its own session, so that its child processes end with it.
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
  ((code == 124 || code == 137)) && say "$name: timed out after $limit"
  say "$name failed with exit code $code; its output is in ${log#"$ROOT"/}"
  return "$code"
}

# install_packages NAME...: installs Debian or Ubuntu packages. On other systems, prints which are missing and exits.
install_packages() {
  have apt-get || die "these packages are required: $*"
  [ "$(id -u)" = 0 ] || die "run this as root, or install the packages first: apt-get install $*"
  say "installing $*"
  apt-get update -qq >/dev/null || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Downloads need the certificate authorities, which a minimal machine does not have.
need_certificates() { [ -s /etc/ssl/certs/ca-certificates.crt ] || install_packages ca-certificates; }

# need COMMAND PACKAGE
need() { have "$1" || install_packages "$2"; }

# Finds a Docker client that builds with BuildKit. Some clients need a plugin, Debian 12's does not, and a machine may have both.
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

# build_image ARGUMENTS...: `docker build` with BuildKit. The image is labelled, so that it can be found and removed.
build_image() {
  find_builder || install_packages docker-buildx
  find_builder || die "this Docker client cannot build with BuildKit: install Docker's buildx plugin"
  DOCKER_BUILDKIT=1 "$DOCKER_BUILDER" build --network host --label io.pgraft.made=here "$@"
}

# Whether an image registry answers within 15 s. The result is kept for the scripts that this one calls.
registry_answers() {
  if [ -z "${PGRAFT_REGISTRY:-}" ]; then
    PGRAFT_REGISTRY=no
    timeout 15 docker manifest inspect debian:trixie-slim >/dev/null 2>&1 && PGRAFT_REGISTRY=yes
    export PGRAFT_REGISTRY
    [ "$PGRAFT_REGISTRY" = yes ] || say "no image registry is reachable: building images from Debian packages and Go modules"
  fi
  [ "$PGRAFT_REGISTRY" = yes ]
}

# find_go: puts a Go toolchain that can build components/ on PATH. An older one can fetch it, since toolchains are Go modules.
GO_TOOLCHAIN=go1.24.13
find_go() {
  local dir
  if ! have go && [ -x /usr/local/go/bin/go ]; then PATH=$PATH:/usr/local/go/bin; fi
  need go golang-go
  need_certificates
  export GOTOOLCHAIN=local CGO_ENABLED=0
  case $(go env GOVERSION) in go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.2[0-3]*) ;; *) return 0 ;; esac
  say "$(go env GOVERSION) is too old: fetching $GO_TOOLCHAIN"
  dir=$(cd / && go mod download -json "golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$(go env GOARCH)" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
  [ -d "$dir" ] || die "Go 1.24 or newer is required"
  chmod -R u+x "$dir/bin" "$dir/pkg/tool" # files in modules are not executable
  PATH=$dir/bin:$PATH
}

# go_build MODULE PACKAGE OUTPUT [LDFLAGS]: MODULE is a folder of components/, whose go.sum pins the versions.
go_build() {
  say "building ${3##*/} from Go modules"
  (cd "$KIND_DIR/components/$1" && go build -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$3" "$2")
}
