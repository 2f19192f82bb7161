#!/bin/sh
# Runs the engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer:
# sanitize.sh [BUILD_DIR] [pytest options]. PYTHON chooses the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-"$here/build-sanitize"}
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
"$here/build.sh" "$build" -DOPENGTE_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo

# whatever else is installed, opengte._native is the build that was just made
cat >"$build/sitecustomize.py" <<END
import glob, importlib.util, sys
class Sanitized:
    def find_spec(self, name, path=None, target=None):
        if name == "opengte._native":
            return importlib.util.spec_from_file_location(name, glob.glob("$build/_native*.so")[0])
sys.meta_path.insert(0, Sanitized())
END
export PYTHONPATH="$build:$here/../src"

# Python itself is not instrumented: the runtimes come first, and its own leaks are not ours
cxx=${CXX:-c++}
export LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libubsan.so) $($cxx -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
cd "$here/.."
exec "$python" -m pytest -p no:cacheprovider tests/engine/test_native_kernels.py \
  tests/engine/test_native_engine.py tests/engine/test_native_parity.py "$@"
