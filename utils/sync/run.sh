#!/usr/bin/env bash
# What utils/r2_push.sh and utils/r2_pull.sh share: finds a Python that has what the sync needs, and runs it for one direction.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
python=$checkout/.venv/bin/python
if [ ! -x "$python" ]; then
    python=python3
    "$python" -c "import dotenv, filelock, fire, tqdm" 2>/dev/null || {
        echo "error: $python lacks what this needs; run: pip install -r $checkout/requirements-sync.txt" >&2
        exit 1
    }
fi
exec "$python" "$checkout/utils/sync/main.py" "$@"
