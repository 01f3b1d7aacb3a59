# Shared by up, down, test and bench; sourced, not run.

set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Outside of the clone, so that fresh clones build on what is there.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/conclave"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# Installs Debian packages that are missing. Their services are not started: each node starts servers of its own.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        say "these packages are missing: ${missing[*]}"
        say "install them with: sudo apt-get install ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy" && made_policy=1
    fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    [ -z "$made_policy" ] || rm -f "$policy"
}

need_cargo() {
    command -v cargo >/dev/null 2>&1 || { say "cargo is missing: install Rust 1.95 or newer first"; exit 1; }
}

# A virtual environment below the cache: need_python NAME PACKAGE... A marker tells a whole one from one that was interrupted.
need_python() {
    local dir="$cache/$1"
    shift
    [ "$(cat "$dir/complete" 2>/dev/null)" = "$*" ] && return
    say "installing $*"
    rm -rf "$dir"
    mkdir -p "$cache"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
    printf '%s' "$*" > "$dir/complete"
}

# The unmodified command line and Python client of Cloudify. Its command line needs an older click, and setuptools.
need_cfy() {
    need_python cloudify-7.0.5 cloudify==7.0.5 cloudify-common==7.0.5 'click<8.2' 'setuptools<81'
}

# Prints a Python 2.7, which Debian no longer has; nothing where there is none.
find_python2() {
    local python
    for python in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        if "$python" -c '' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
    done
}

# The unmodified command line of the last 4.x, which had clusters of a kind of its own: need_cfy_4 PYTHON2.
need_cfy_4() {
    local dir="$cache/cloudify-4.6" python=$1
    [ -e "$dir/complete" ] && return
    # The last of its releases that know that Python.
    need_python virtualenv 'virtualenv<20.22'
    say "installing cloudify==4.6"
    rm -rf "$dir"
    "$cache/virtualenv/bin/virtualenv" --quiet --python "$python" "$dir" >&2
    "$dir/bin/pip" install --quiet --disable-pip-version-check cloudify==4.6 2>/dev/null
    touch "$dir/complete"
}

# Clients of the Consul API: py-consul, and Patroni, which brings its driver of PostgreSQL; and Prometheus' own parser.
need_consul_clients() {
    need_python consul-clients py-consul==1.8.0 'patroni[consul,psycopg3]==4.1.5' prometheus-client==0.26.0
}

# An S3 server in one process, for the tests of backups.
need_moto() {
    need_python moto-5.2.5 'moto[server,s3]==5.2.5'
}

# Fuzzing needs a nightly compiler for its instrumentation.
need_cargo_fuzz() {
    rustup toolchain list 2>/dev/null | grep -q '^nightly' || rustup toolchain install nightly --profile minimal >&2
    export PATH="$cache/tools/bin:$PATH"
    command -v cargo-fuzz >/dev/null 2>&1 || cargo install --quiet --root "$cache/tools" cargo-fuzz
}
