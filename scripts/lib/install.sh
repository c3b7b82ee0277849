# What scripts/demo and scripts/test need before they can build, sourced by both: Debian packages and cargo. Servers are
# installed by scripts/servers.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
give_up() { say "$0: $*"; exit 1; }

# Installs those of the given Debian packages that are missing.
packages() {
    local package missing=()
    command -v dpkg-query > /dev/null || { say "not a Debian system: $* are taken for granted"; return; }
    for package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2> /dev/null) in
            *' installed') ;;
            *) missing+=("$package") ;;
        esac
    done
    ((${#missing[@]})) || return 0
    say "installing Debian packages: ${missing[*]}"
    local root=()
    if ((EUID != 0)); then
        command -v sudo > /dev/null || give_up "install these packages as root: ${missing[*]}"
        root=(sudo)
    fi
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update > /dev/null && "${apt[@]}" install -y --no-install-recommends "${missing[@]}" > /dev/null \
        || give_up "apt-get could not install ${missing[*]}"
}

# What building pg2ch takes: librdkafka is compiled from source, against the system's OpenSSL and zlib.
build_tools() {
    packages gcc g++ make libc6-dev pkg-config libssl-dev zlib1g-dev python3 python3-venv ca-certificates
    [[ -e ${CARGO_HOME:-$HOME/.cargo}/env ]] && . "${CARGO_HOME:-$HOME/.cargo}/env"
    command -v cargo > /dev/null || give_up "there is no cargo. Debian's is too old for pg2ch; https://rustup.rs has the current one:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy,rustfmt
and then run $0 again"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(cargo --version | cut -d ' ' -f 2)
    printf '%s\n' "$wanted" "$found" | sort -V -C \
        || give_up "cargo $found is too old: pg2ch needs $wanted or newer (\`rustup update\`, or https://rustup.rs)"
}
