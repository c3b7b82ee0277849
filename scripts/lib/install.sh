# What the other scripts need before they can build, sourced by them: cargo and Debian packages. scripts/servers installs the servers.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
give_up() { say "$0: $*"; exit 1; }

# Ends with a polite word on a system that these scripts do not know, before anything is done.
# Where there is no apt-get, everything has to be there: the rest of the arguments names programs.
supported_system() {
    local other='Other systems: see "Where the scripts run" in README.md. With Docker, this needs nothing else:
    docker compose --profile job run --rm pg2ch --once'
    [[ $(uname -s) == Linux ]] || give_up "this script runs on Linux, and this is $(uname -s). $other"
    command -v apt-get > /dev/null && return
    local program missing=()
    for program in gcc g++ make pkg-config python3 curl "$@"; do
        command -v "$program" > /dev/null || missing+=("$program")
    done
    ((${#missing[@]} == 0)) || give_up "this script installs what is missing with apt-get, which this system does not have. Missing: ${missing[*]}. $other"
}

# Cargo, before anything is installed.
cargo_is_there() {
    # shellcheck source=/dev/null
    [[ -e ${CARGO_HOME:-$HOME/.cargo}/env ]] && . "${CARGO_HOME:-$HOME/.cargo}/env"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo > /dev/null || give_up "cargo $wanted or later is missing. To install it:
$(advise_cargo)
Then run $0 again, in a new shell."
    found=$(cargo --version | cut -d ' ' -f 2)
    printf '%s\n' "$wanted" "$found" | sort -V -C \
        || give_up "cargo $found is too old: pg2ch needs $wanted or later. \`rustup update\` brings it; without rustup:
$(advise_cargo)"
}

# How to install cargo, with programs that are there.
advise_cargo() {
    local sudo=
    ((EUID == 0)) || sudo='sudo '
    if is_listed rustup; then
        echo "    ${sudo}apt-get install rustup && rustup default stable"
        return
    fi
    command -v curl > /dev/null || echo "    ${sudo}apt-get update && ${sudo}apt-get install curl ca-certificates"
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy,rustfmt"
}

# Whether there is a Docker engine, and Compose with it: scripts/servers then uses these.
docker_answers() { timeout 10 docker compose version > /dev/null 2>&1 && timeout 10 docker info > /dev/null 2>&1; }

# Those of the given Debian packages that are missing, one a line.
missing_packages() {
    command -v dpkg-query > /dev/null || return 0
    local package
    for package; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2> /dev/null) == *' installed' ]] || printf '%s\n' "$package"
    done
}

# Whether this release has a package of that name; its lists are brought first, where there are none.
has_package() {
    command -v apt-cache > /dev/null || return 1
    [[ -n $(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -print -quit) ]] || apt_get update > /dev/null
    is_listed "$1"
}

# Whether apt's lists have a package of that name. apt-cache succeeds, and prints nothing, for one that others only name.
is_listed() { [[ $(apt-cache show "$1" 2> /dev/null) ]]; }

# apt-get, as root or through sudo.
apt_get() {
    local root=()
    if ((EUID != 0)); then
        command -v sudo > /dev/null || give_up "this has to run as root: apt-get $*"
        root=(sudo)
    fi
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

# Installs those of the given Debian packages that are missing.
packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    say "installing Debian packages: ${missing[*]}"
    apt_get update > /dev/null && apt_get install -y --no-install-recommends "${missing[@]}" > /dev/null \
        || give_up "apt-get could not install ${missing[*]}"
    note_installed "${missing[@]}"
}

# What scripts/demo and scripts/test have installed is noted, so that `scripts/demo --undo` can name it.
installed_packages=${XDG_STATE_HOME:-$HOME/.local/state}/pg2ch/installed-packages
note_installed() {
    mkdir -p "${installed_packages%/*}"
    printf '%s\n' "$@" >> "$installed_packages"
}

# What building pg2ch takes: librdkafka is compiled from source, against the system's OpenSSL and zlib.
build_packages=(gcc g++ make libc6-dev pkg-config libssl-dev zlib1g-dev python3 python3-venv ca-certificates)
build_tools() {
    cargo_is_there
    packages "${build_packages[@]}"
    # The compiler's allocator takes huge pages where the kernel leaves that to programs. On a virtual machine with slow page
    # tables a build took 25 seconds with them, 80 to 140 without (https://jemalloc.net/jemalloc.3.html#opt.thp).
    export MALLOC_CONF=${MALLOC_CONF-thp:always}
}
