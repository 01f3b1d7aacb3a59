#!/bin/bash
# Runs between creation and configuration: tells the page where its folder is.
set -euo pipefail
folder=$(ctx target instance runtime-properties path)
ctx source instance runtime-properties file "$folder/$(ctx source node properties file_name)"
