#!/bin/bash
set -euo pipefail
rm -f "$(ctx instance runtime-properties file)"
