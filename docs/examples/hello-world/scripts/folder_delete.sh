#!/bin/bash
set -euo pipefail
rmdir --ignore-fail-on-non-empty "$path" 2>/dev/null || true
ctx logger info "folder $path is gone"
