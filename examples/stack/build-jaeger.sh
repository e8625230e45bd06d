#!/usr/bin/env bash
# Builds the Jaeger release that compose.yaml uses, for the test that reads traces
# back from it: bash examples/stack/build-jaeger.sh /tmp/jaeger
# It needs Go, more than 2 GB of memory, and some minutes.
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
# Outside the module of this repository, whose go.mod and go.sum must not matter.
cd "$dir"
source=$(GOFLAGS= go mod download -json "$MODULE" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
# go install refuses a module with replace directives, and the module cache is
# read-only, so this builds a copy. It has a placeholder instead of the web pages,
# which the query API does not need.
mkdir src
cp -R "$source/." src
chmod -R u+w src
cd src
GOFLAGS= CGO_ENABLED=0 go build -trimpath -o "$output" ./cmd/all-in-one
echo "$output"
