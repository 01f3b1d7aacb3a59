#!/bin/bash
# Makes the folder and remembers it as a runtime property.
set -euo pipefail
mkdir -p "$path"
ctx instance runtime-properties path "$path"
ctx logger info "folder $path is there"
