#!/usr/bin/env bash
# Makes a Docker Engine with Compose v2 and buildx available, and prints each step.
#
# Rule 1: everything that is installed already is used as it is. If nothing is missing, the script changes nothing.
# Rule 2: the script installs packages only as root on Debian 12 or 13, and only Debian's own.
# Rule 3: if it may not install, it ends with one line that says what to do.
set -euo pipefail

readonly plugin_directory=/usr/local/lib/docker/cli-plugins
readonly dockerd_log=/var/log/understudy-dockerd.log
scratch=

say() { printf 'engine: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
# One apt-get at a time: lint may install packages while the images are built, and apt-get itself does not wait.
apt() { DEBIAN_FRONTEND=noninteractive flock --close /var/cache/apt apt-get "$@"; }
clean_up() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap clean_up EXIT

have_engine() { timeout 20 docker info >/dev/null 2>&1; }
have_compose() { docker compose version >/dev/null 2>&1; }
have_buildx() { docker buildx version >/dev/null 2>&1; }

debian_release() {
    # A derivative (ID_LIKE=debian) has its own archive, which may lack these packages.
    (
        # shellcheck disable=SC1091  # the file belongs to the host
        . /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && printf '%s' "${VERSION_ID:-}"
    ) || true
}

require_right_to_install() {
    local what=$1
    if ! { [ "$release" = 12 ] || [ "$release" = 13 ]; }; then
        fail "$what is missing: install Docker Engine 20.10 or later with its Compose v2 and buildx plugins, then run this again"
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "$what is missing: run 'sudo docker/engine.sh' once, it installs Debian's packages"
    fi
}

install_packages() {
    say "installs Debian's packages: $*"
    local log
    log=$(mktemp)
    if ! { apt update && apt install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install $* (log: $log): fix the host's apt sources, then run this again"
    fi
    rm -f "$log"
}

start_engine() {
    if [ -d /run/systemd/system ]; then
        say "starts docker.service"
        systemctl enable --now docker.service >/dev/null 2>&1 ||
            fail "docker.service does not start: see 'journalctl -u docker.service'"
    else
        say "starts dockerd in the background (no systemd here), log: $dockerd_log"
        (
            # Closes the caller's descriptors, which dockerd would keep: `make -j` waits until no process has its job pipe.
            for descriptor in /proc/self/fd/*; do
                [ "${descriptor##*/}" -le 2 ] || eval "exec ${descriptor##*/}>&-"
            done
            exec setsid nohup dockerd
        ) </dev/null >>"$dockerd_log" 2>&1 &
        local dockerd_pid=$!
    fi
    local deadline=$((SECONDS + 60))
    until have_engine; do
        if [ "$SECONDS" -ge "$deadline" ] || { [ -n "${dockerd_pid:-}" ] && ! kill -0 "$dockerd_pid" 2>/dev/null; }; then
            [ ! -r "$dockerd_log" ] || tail -n 5 "$dockerd_log" >&2
            fail "the Docker Engine does not answer: see $dockerd_log or 'journalctl -u docker.service'"
        fi
        sleep 0.5
    done
}

host_archive() {
    # The host's own mirror also serves the neighbouring suite.
    # shellcheck disable=SC2016  # apt expands $(SITE)
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' |
        grep -E '/debian/?$' | sort -u | head -n 1
}

unpack_plugins_from_trixie() {
    # Debian 12 has neither plugin. The plugins are static Go programs, so the binaries of Debian 13 run here when they are
    # unpacked alone. The host's apt configuration, lists and cache are not touched.
    local archive
    archive=$(host_archive)
    [ -n "$archive" ] ||
        fail "no Debian archive among the host's apt sources: add one, or install the plugins docker-compose and docker-buildx by hand"
    say "unpacks Compose v2 and buildx from Debian 13's packages into $plugin_directory"
    scratch=$(mktemp -d)
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/root"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$archive" >"$scratch/sources.list"
    local private_apt=(
        -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache"
        -o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
        -o APT::Update::Post-Invoke-Success::= -o Acquire::Languages=none
    )
    if ! (
        cd "$scratch"
        apt-get "${private_apt[@]}" update && apt-get "${private_apt[@]}" download docker-compose docker-buildx
    ) >"$scratch/log" 2>&1; then
        tail -n 20 "$scratch/log" >&2
        fail "Debian 13's docker-compose and docker-buildx could not be downloaded: fix the network, or install both plugins by hand"
    fi
    local package
    for package in "$scratch"/*.deb; do
        dpkg -x "$package" "$scratch/root"
    done
    install -d -m 0755 "$plugin_directory"
    install -m 0755 "$scratch"/root/usr/libexec/docker/cli-plugins/* "$plugin_directory/"
}

release=$(debian_release)

if ! command -v docker >/dev/null || { ! have_engine && ! command -v dockerd >/dev/null; }; then
    if command -v docker >/dev/null && [ -n "${DOCKER_HOST:-}" ]; then
        fail "DOCKER_HOST=$DOCKER_HOST does not answer: start that Engine, or unset DOCKER_HOST"
    fi
    require_right_to_install "Docker Engine"
    # Since Debian 13 the client is a separate package.
    if [ "$release" = 13 ]; then
        install_packages docker.io docker-cli docker-compose docker-buildx iptables
    else
        install_packages docker.io iptables
    fi
fi

if ! have_engine; then
    [ "$(id -u)" = 0 ] ||
        fail "the Docker Engine does not answer: start it, or put this user into the group 'docker', or run 'sudo docker/engine.sh'"
    command -v iptables >/dev/null || { require_right_to_install iptables; install_packages iptables; }
    start_engine
fi

if ! have_compose || ! have_buildx; then
    require_right_to_install "Compose v2 or buildx"
    if [ "$release" = 13 ]; then
        install_packages docker-compose docker-buildx
    else
        unpack_plugins_from_trixie
    fi
    have_compose || fail "'docker compose' still does not answer: see 'docker compose version'"
    have_buildx || fail "'docker buildx' still does not answer: see 'docker buildx version'"
fi

say "Docker Engine $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short), buildx $(docker buildx version | cut -d ' ' -f 2)"
