#!/bin/sh
# Builds the extension for development: build.sh [BUILD_DIR] [extra cmake options].
# PYTHON chooses the interpreter. Point PYTHONPATH at BUILD_DIR/site to use the result as
# opengte._native beside the sources.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-"$here/build"}
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
cmake -S "$here" -B "$build" -G Ninja -DPython_EXECUTABLE="$(command -v "$python")" "$@" >"$build.log" 2>&1 ||
  { cat "$build.log"; exit 1; }
cmake --build "$build"
