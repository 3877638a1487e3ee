#!/usr/bin/env bash
# Pushes experiments/ to the object storage that .env names; docs/sync.md says how, --help which flags there are.
exec bash "$(dirname "${BASH_SOURCE[0]}")/sync/run.sh" push "$@"
