# Which binaries take part, and which versions they are. Sourced by `run`.

libraries= # for load tools that were fetched

debian() { # debian PACKAGE FILE: its path
    scripts/fetch-debian bookworm "$1" "$2"
}

library() { # library PACKAGE FILE
    local path
    path=$(debian "$1" "usr/lib/$(uname -m)-linux-gnu/$2")
    libraries=${libraries:+$libraries:}$(dirname "$path")
}

find_binary() { # find_binary COMMAND FETCH…: $COMMAND_BIN, else from PATH, else what FETCH prints
    local variable=${1^^}_BIN
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
    elif ! PATH=$PATH:/usr/sbin command -v "$1"; then
        "${@:2}"
    fi
}

find_binaries() {
    nginx_bin=$(find_binary nginx "$here/newest" nginx)
    haproxy_bin=
    case " ${proxies[*]} " in *" haproxy "*) haproxy_bin=$(find_binary haproxy "$here/newest" haproxy) ;; esac
    # The load's own are of one suite, whatever the peers' are: newer ones offer other key exchanges.
    wrk_bin=$(find_binary wrk debian wrk usr/bin/wrk)
    h2load_bin=$(find_binary h2load debian nghttp2-client usr/bin/h2load)
    case "$wrk_bin $h2load_bin" in *.cache/debian/*)
        library libluajit2-5.1-2 libluajit-5.1.so.2
        library libjemalloc2 libjemalloc.so.2
        library libev4 libev.so.4
        ;;
    esac
    local built=${CARGO_TARGET_DIR:-target}/release
    if [ -z "${ROTA_BIN:-}" ]; then
        cargo build --release --quiet
        ROTA_BIN=$built/rota
    fi
    rota_bin=$(realpath "$ROTA_BIN")
    if [ -z "${PEERS_LOAD_BIN:-}" ]; then
        cargo build --release --quiet --example peers-load
        PEERS_LOAD_BIN=$built/examples/peers-load
    fi
    load_bin=$(realpath "$PEERS_LOAD_BIN")
}

version_of() { # with the OpenSSL that a peer runs on
    case $1 in
        rota) "$rota_bin" version | head -1 ;;
        nginx)
            "$nginx_bin" -V 2>&1 | sed -n -e 's,^nginx version: \([^/]*\)/\([^ ]*\).*,\1 \2,p' \
                -e 's/^built with \(OpenSSL [^ ]*\).*/\1/p' -e 's/.*running with \(OpenSSL [^ ]*\)).*/\1/p' | paste -sd' '
            ;;
        haproxy)
            "$haproxy_bin" -vv | sed -n -e '1s/HAProxy version \([^ ]*\).*/HAProxy \1/p' \
                -e 's/^Running on SSL library version : \(OpenSSL [^ ]*\).*/\1/p' | paste -sd' '
            ;;
    esac
}
