#!/bin/bash
set -euo pipefail
file=$(ctx instance runtime-properties file)
printf '<h1>%s</h1>\n' "$(ctx node properties text)" > "$file"
echo "wrote $(wc -c < "$file") bytes"
ctx logger info "page is at $file"
