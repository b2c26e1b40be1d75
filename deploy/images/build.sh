#!/bin/sh
# Builds the images of hub and agent: static programs with cargo, then one image of each with docker, podman or buildah,
# whichever is there (or CONTAINER_TOOL). Needs no base image and no network but cargo's.
#
#   deploy/images/build.sh [PREFIX [TAG]]     names them PREFIX/berth-hub:TAG; without a prefix berth-hub:TAG
#   deploy/images/build.sh --programs         only the programs, and prints their directory
set -eu
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=$(rustc -vV | sed -n 's/^host: //p')

# With an explicit target the flags are for the programs alone: procedural macros, which run in the compiler, cannot be static.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
  cargo build --release --locked --target "$target" --package berth-hub --package berth-agent --bins
programs="${CARGO_TARGET_DIR:-target}/$target/release"

for program in berth-hub berth-agent; do
  # An image from scratch has no loader: a program that asks for one would not even start.
  if readelf --program-headers "$programs/$program" | grep -q INTERP; then
    echo "build.sh: $programs/$program is not static" >&2
    exit 1
  fi
done
if [ "${1:-}" = --programs ]; then
  echo "$programs"
  exit
fi

tool=${CONTAINER_TOOL:-}
for candidate in docker podman buildah; do
  if [ -z "$tool" ] && command -v "$candidate" >/dev/null; then tool=$candidate; fi
done
if [ -z "$tool" ]; then
  echo "build.sh: install docker, podman or buildah, or set CONTAINER_TOOL" >&2
  exit 1
fi

# A context with only what goes in: the target directory is gigabytes.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
for program in berth-hub berth-agent; do
  cp "$programs/$program" "$context/"
  image="${1:+$1/}$program:${2:-$version}"
  "$tool" build --file "deploy/images/$program.Dockerfile" --tag "$image" "$context"
  echo "built $image"
done
