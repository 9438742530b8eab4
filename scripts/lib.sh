# Functions that the scripts share. Source it; it changes to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

SCRATCH=$(mktemp -d)
readonly SCRATCH
RUNNING=
SERVER=
NOT_RUN=()

# Stops what is still running; `timeout` passes the signal on to the process group.
clean_up() {
    local pid
    trap - EXIT INT TERM HUP
    for pid in $RUNNING $SERVER; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    local data=$SCRATCH/pg/data
    if [[ -e $data/postmaster.pid ]]; then kill -INT "$(head -n 1 "$data/postmaster.pid")" || true; fi
    rm -rf "$SCRATCH"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

section() {
    printf '\n=== %s (%d s) ===\n' "$1" "$SECONDS"
}

fail() {
    printf '\nFAILED: %s\n' "$1" >&2
    exit 1
}

# run [--limit SECONDS] command…: runs a step that must succeed. The limit stops a step that hangs: half an hour by
# default, which no step takes on a slow machine.
run() {
    local limit=1800 status=0
    if [[ $1 == --limit ]]; then
        limit=$2
        shift 2
    fi
    printf '$ %s\n' "$*"
    timeout --kill-after=10 "$limit" "$@" &
    RUNNING=$!
    # In the background, so that a signal ends the script at once.
    wait "$RUNNING" || status=$?
    RUNNING=
    ((status != 124)) || fail "no end after $limit s: $*"
    ((status == 0)) || fail "$*"
}

could_not_run() {
    NOT_RUN+=("$1")
    printf 'could not run: %s\n' "$1"
}

# Prints what could not run. Fails in CI if anything could not.
finish() {
    section "done"
    if ((${#NOT_RUN[@]} > 0)); then
        printf 'could not run: %s\n' "${NOT_RUN[@]}"
        if [[ -n ${CI:-} ]]; then fail "in CI, everything has to run"; fi
    else
        printf 'everything ran and passed\n'
    fi
}

# Installs a Debian package if that is possible.
install_package() {
    local sudo=()
    if ((EUID != 0)); then sudo=(sudo -n); fi
    if command -v apt-get >/dev/null; then
        printf 'installing %s\n' "$*"
        "${sudo[@]}" apt-get update -qq || true
        "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" || true
    fi
}

# provide <command> <package>: installs the package if the command is missing.
provide() {
    command -v "$1" >/dev/null || install_package "$2"
}

have_redis() {
    command -v redis-server >/dev/null
}

have_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null
}

have_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null
}

# Not libclang-cpp, which is another library.
have_libclang() {
    compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
        compgen -G '/usr/lib/*/libclang-[0-9]*.so*' >/dev/null
}

have_system_sqlite() {
    have_libclang && [[ -e /usr/include/sqlite3.h ]]
}

have_miri() {
    cargo +nightly miri --version >/dev/null 2>&1 &&
        [[ -d $(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library ]]
}

target_directory() {
    cargo metadata --format-version 1 --no-deps | sed -nE 's/.*"target_directory":"([^"]+)".*/\1/p'
}
