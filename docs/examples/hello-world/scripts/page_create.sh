#!/bin/bash
set -euo pipefail
ctx logger info "a page that says '$(ctx node properties text)'"
