#!/usr/bin/env bash
# Pulls experiments/ from the object storage that .env names; docs/sync.md says how, --help which flags there are.
exec bash "$(dirname "${BASH_SOURCE[0]}")/sync/run.sh" pull "$@"
