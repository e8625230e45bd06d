#!/usr/bin/env bash
# Builds Jaeger, the release that compose.yaml names, for the test that reads a
# trace back out of it. Needs Go, more than 2 GB of memory and some minutes.
# By hand: bash examples/stack/build-jaeger.sh /tmp/jaeger
set -euo pipefail

MODULE=github.com/jaegertracing/jaeger@v1.76.0

if [ $# -ne 1 ]; then
	echo "usage: $0 path-of-the-program" >&2
	exit 2
fi
mkdir -p "$(dirname "$1")"
output="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# Outside of this repository's module: its go.mod and go.sum have no part in it.
cd "$dir"
source=$(GOFLAGS= go mod download -json "$MODULE" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
# go install refuses modules that replace others, and the module cache is
# read-only, so a copy is built. It has a placeholder where the web pages would
# be, which the query API does not need.
mkdir src
cp -R "$source/." src
chmod -R u+w src
cd src
GOFLAGS= CGO_ENABLED=0 go build -trimpath -o "$output" ./cmd/all-in-one
echo "$output"
