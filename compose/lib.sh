# shellcheck shell=bash
# What the scripts of this folder share: names, the pinned CLI, messages, the engine. To be sourced by bash.

set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=compose/cli.lock
. "$ROOT/compose/cli.lock"

# shellcheck disable=SC2034 # used by the scripts that source this file
{
  # Exit codes of every script here. 1 is anything not named: a full disk, a failed build.
  readonly EX_USAGE=2       # the command line is wrong
  readonly EX_ARCH=3        # this processor or engine is not supported
  readonly EX_UNAVAILABLE=4 # no client, no engine, no network
  readonly EX_MISMATCH=5    # what was fetched or built is not what is pinned

  # The only place where the images' names and labels are decided.
  readonly SUITE=bookworm
  readonly BASE_IMAGE=supervisor-base:$SUITE
  readonly WORKER_IMAGE=supervisor-worker:$CLI_VERSION
  readonly LABEL_KEY=supervisor.image # hash of all that the image is made from; also what `make clean` goes by
}

DOCKER=${DOCKER:-docker}
CLI_CACHE=${CLI_CACHE:-$ROOT/.cache/cli}
case $CLI_CACHE in /*) ;; *) CLI_CACHE=$PWD/$CLI_CACHE ;; esac

say() { printf '==> %s\n' "$*" >&2; }

# die CODE WHAT [WHY [CURE]]
die() {
  printf '%s: %s\n' "$(basename -- "$0")" "$2" >&2
  [ -z "${3:-}" ] || printf '  why:  %s\n' "$3" >&2
  [ -z "${4:-}" ] || printf '  cure: %s\n' "$4" >&2
  exit "$1"
}

have() { command -v "$1" >/dev/null 2>&1; }

# bounded SECONDS COMMAND...: the command, ended after that time. Where there is no timeout(1), unbounded.
bounded() {
  local seconds=$1
  shift
  if have timeout; then timeout "$seconds" "$@"; else "$@"; fi
}

sha256_of() {
  if have sha256sum; then sha256sum "$@"; else shasum -a 256 "$@"; fi | cut -d' ' -f1
}

# key_of FILE...: one hash over the contents.
key_of() {
  cat -- "$@" | { if have sha256sum; then sha256sum; else shasum -a 256; fi; } | cut -c1-16
}

# size_and_mtime FILE
size_and_mtime() { stat -c '%s %Y' "$1" 2>/dev/null || stat -f '%z %m' "$1"; }

# lock_value NAME ARCH: a per-architecture value of cli.lock, empty where the lock has none.
lock_value() {
  local name="$1_$2"
  printf '%s' "${!name:-}"
}

# Prints the architecture in uname's words: CLI_ARCH, else this machine's.
arch() {
  local machine=${CLI_ARCH:-$(uname -m)}
  case $machine in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
  esac
  printf '%s' "$machine"
}

cli_path() { printf '%s' "$CLI_CACHE/$CLI_VERSION/claude"; }

# Prints the engine's architecture when one answers within five seconds, else fails. Obeys DOCKER_HOST and contexts.
engine_arch() {
  have "$DOCKER" || return 1
  bounded 5 "$DOCKER" version --format '{{.Server.Arch}}' 2>/dev/null
}

# Whether there is an engine at all, with or without a client to talk to it.
engine_answers() {
  if have "$DOCKER"; then [ -n "$(engine_arch)" ]; else socket_answers; fi
}

# Whether something answers on the engine's local socket. Only looked at when there is no client.
socket_answers() {
  local socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
  [ "${socket#unix://}" != "$socket" ] && have curl &&
    curl --silent --fail --max-time 5 --output /dev/null --unix-socket "${socket#unix://}" http://docker/_ping
}

need_engine() {
  have "$DOCKER" ||
    die "$EX_UNAVAILABLE" "no docker client" "\`$DOCKER\` is not on the PATH" \
      "install one (on Debian: apt-get install docker.io); without Docker the supervisor uses its process runtime"
  local found
  found=$(engine_arch) ||
    die "$EX_UNAVAILABLE" "no Docker engine answers" "\`$DOCKER version\` failed${DOCKER_HOST:+ with DOCKER_HOST=$DOCKER_HOST}" \
      "start the engine, or mend DOCKER_HOST; without Docker the supervisor uses its process runtime"
  case $found in
    amd64) found=x86_64 ;;
    arm64) found=aarch64 ;;
  esac
  [ "$found" = "$(arch)" ] ||
    die "$EX_ARCH" "the engine runs on $found, this machine on $(arch)" "the image and the worker binary must fit the engine" \
      "build on a machine of the engine's kind"
}

# The base image's key. BASE_FROM is part of it: another start makes another image.
base_key() {
  { echo "${BASE_FROM:-}"; cat "$ROOT/compose/base-image" "$ROOT/compose/base.Dockerfile" "$ROOT/compose/packages.txt"; } | key_of -
}

# image_key IMAGE: the key label of a local image, empty where there is no such image.
image_key() {
  "$DOCKER" image inspect --format "{{index .Config.Labels \"$LABEL_KEY\"}}" "$1" 2>/dev/null || true
}

# name_image ID NAME: gives the name to the new image; what had it before goes, unless a container still uses it.
name_image() {
  local old
  old=$("$DOCKER" image inspect --format '{{.Id}}' "$2" 2>/dev/null) || old=
  "$DOCKER" tag "$1" "$2"
  if [ -n "$old" ] && [ "$old" != "$("$DOCKER" image inspect --format '{{.Id}}' "$2")" ]; then
    "$DOCKER" rmi "$old" >/dev/null 2>&1 || true
  fi
}

# scratch_dir MEGABYTES: a new folder, in memory where there is that much room: a bootstrap syncs each file.
scratch_dir() {
  local free
  if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    free=$(df -Pm /dev/shm | awk 'NR == 2 {print $4}')
    if [ "$free" -ge "$1" ]; then
      mktemp -d /dev/shm/supervisor.XXXXXX
      return
    fi
  fi
  mktemp -d "${TMPDIR:-/tmp}/supervisor.XXXXXX"
}
