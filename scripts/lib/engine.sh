# A Docker engine of its own (Debian's docker.io) in a network namespace of its own, sourced by scripts/test-image and
# scripts/test-compose, which set $work: no other engine, image or network of this machine is touched. Needs root.
# shellcheck shell=bash disable=SC2154

# Debian's own client: another one may ask for more than Debian's engine has.
docker() { /usr/bin/docker "$@"; }

# Begins the script anew where only its own network is. What has to come from outside is fetched before.
# "$@": the script and its arguments.
enter_own_network() {
    PG2CH_INSIDE=1 exec unshare --net "$@"
}

# Prints the client's folder of settings, one with `docker compose` where the client has none: Debian 12 has version 1 only, so the
# plugin is taken out of Debian 13's package, and not installed.
client_with_compose() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/pg2ch/docker-compose
    if docker compose version > /dev/null 2>&1; then
        echo "${DOCKER_CONFIG:-$HOME/.docker}"
        return
    fi
    if [[ ! -x $folder/cli-plugins/docker-compose ]]; then
        mkdir -p "$folder"/{cli-plugins,apt/lists/partial,apt/cache/archives/partial}
        local site apt
        site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" > "$folder/apt/sources.list"
        apt=(apt-get -qq -o "Dir::Etc::SourceList=$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache" -o APT::Sandbox::User=root)
        (cd "$folder/apt" && "${apt[@]}" update && "${apt[@]}" download docker-compose && dpkg -x docker-compose_*.deb unpacked) >&2 \
            || give_up "cannot download Debian 13's package docker-compose"
        mv "$folder/apt/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$folder/cli-plugins/"
        rm -r "$folder/apt"
    fi
    echo "$folder"
}

# "$@": dockerd's options. Its files are in $work. Where no engine starts, the script says so and ends with 0.
start_engine() {
    ip link set lo up
    # Debian's engine, were it started as a service, would be on the usual socket: this one has its own of everything.
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" --host "unix://$work/socket" "$@" \
        > "$work/engine.log" 2>&1 &
    engine=$!
    export DOCKER_HOST=unix://$work/socket
    local _
    for _ in {1..60}; do
        docker version > /dev/null 2>&1 && return
        kill -0 "$engine" 2> /dev/null || break
        sleep 0.5
    done
    say "skipped: no Docker engine starts here: $(tail -n 1 "$work/engine.log")"
    exit
}

stop_engine() {
    if [[ -n ${engine:-} ]]; then
        # Its containers are its children's: they end with it.
        local container
        for container in $(docker ps --quiet 2> /dev/null); do
            docker kill "$container" > /dev/null 2>&1 || true
        done
        kill "$engine" 2> /dev/null || true
        wait "$engine" || true
    fi
    # What is still mounted below.
    grep -o " $work/[^ ]*" /proc/mounts | sort --reverse | xargs --no-run-if-empty umount --lazy || true
}

# $1 ARCHIVE of scripts/release: the image `pg2ch`, by the Dockerfile, on stand-ins for the images that it begins with: busybox, the
# authorities, and an apt-get that has nothing to do.
build_image() {
    mkdir -p "$work"/stand-in/{bin,tmp,usr/bin,etc/ssl/certs,var/lib/apt/lists}
    cp /bin/busybox "$work/stand-in/bin"
    ln -s busybox "$work/stand-in/bin/sh"
    ln -s busybox "$work/stand-in/bin/rm"
    printf '#!/bin/sh\n' > "$work/stand-in/usr/bin/apt-get"
    chmod 755 "$work/stand-in/usr/bin/apt-get"
    cp /etc/ssl/certs/ca-certificates.crt "$work/stand-in/etc/ssl/certs"
    tar --create --directory "$work/stand-in" --file "$work/stand-in.tar" .
    local image
    while read -r image; do
        docker import "$work/stand-in.tar" "$image" > /dev/null
    done < <(sed -n 's/^FROM \([a-z]*:[^ ]*\).*/\1/p' Dockerfile)
    rm -rf target/image
    mkdir -p target/image/amd64
    tar --extract --gzip --file "$1" --directory target/image/amd64 --strip-components 1 --wildcards 'pg2ch-*/pg2ch'
    DOCKER_BUILDKIT=1 docker build --quiet --network=none --build-arg BINARY=released --tag pg2ch . > "$work/build-log" 2>&1 \
        || give_up "the image cannot be built: $(cat "$work/build-log")"
}
