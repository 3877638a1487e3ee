#!/bin/sh
# Give every peer an environment of its own under .bench/, since their pins differ. One that cannot be installed is left out, and the
# benchmark says so. A file that begins with "# --no-deps" pins all that its peer needs, and pip looks for nothing else.
# Usage: tests/benchmarks/install_peers.sh [python3]
cd "$(dirname "$0")/../.." || exit 1
python=${1:-python3}
for file in tests/benchmarks/requirements-*.txt; do
    peer=${file#tests/benchmarks/requirements-}
    folder=.bench/${peer%.txt}
    [ "$folder/installed" -nt "$file" ] && continue
    rm -f "$folder/installed"
    case $(head -n 1 "$file") in "# --no-deps"*) alone=--no-deps ;; *) alone= ;; esac
    # torch first, by itself: with a looser pin beside it, pip may fetch another build
    if "$python" -m venv "$folder" && "$folder/bin/pip" install -q --disable-pip-version-check -r tests/benchmarks/requirements.txt &&
        "$folder/bin/pip" install -q --disable-pip-version-check $alone -r "$file"; then
        touch "$folder/installed"
    else
        echo "note: ${peer%.txt} could not be installed; its rows will say so" >&2
    fi
done
