# Load: each prints the number of requests answered, or ends the run. Sourced by `run`.

wrk_load() { # wrk_load CONNECTIONS URL [SCRIPT]
    local text
    text=$( (on_core "$load_core" "$wrk_bin" -t1 -c"$1" -d"${seconds}s" ${3:+-s "$here/$3"} "$2") 2>&1) || die "$text"
    case $text in *Non-2xx* | *"Socket errors"*) die "$2: $text" ;; esac
    awk '/requests in/ { print $1 }' <<<"$text"
}

h2_load() { # h2_load URL: 20 connections × 20 streams
    local text
    text=$( (on_core "$load_core" "$h2load_bin" -t1 -c20 -m20 -D"$seconds" --warm-up-time=0 "$1") 2>&1) || die "$text"
    awk '/^requests:/ { if ($10 + $12 > 0) exit 1; print $8 }' <<<"$text" || die "$1: $text"
}

handshake_load() { # handshake_load URL: a new connection for each request, 40 every 100 ms; wrk would resume sessions
    local text count=$((seconds * 400))
    text=$( (on_core "$load_core" "$h2load_bin" -t1 --h1 -n "$count" -c "$count" -r 40 --rate-period=100ms "$1") 2>&1) || die "$text"
    awk '/^requests:/ { if ($10 + $12 > 0) exit 1; print $8 }' <<<"$text" || die "$1: $text"
}

own_load() { # own_load ORDER…: of peers-load
    (on_core "$load_core" "$load_bin" "$@") || die "no figure without all answers"
}

load() { # load SCENARIO INSTANCE
    local http=http://localhost:${plain[$2]} https=https://localhost:${tls[$2]}
    case $1 in
        plain | servers) wrk_load 64 "$http/" ;;
        tls) wrk_load 64 "$https/" ;;
        handshake) handshake_load "$https/" ;;
        h2) h2_load "$https/" ;;
        large) wrk_load 16 "$http/large" ;;
        large-tls) wrk_load 16 "$https/large" ;;
        upload) wrk_load 16 "$http/upload" upload.lua ;;
        hosts) HOSTS=${host_count[$2]} wrk_load 64 "$http/" hosts.lua ;;
        certificates-*)
            own_load handshakes "127.0.0.1:${tls[$2]}" "${certificate_dir[$2]}/authority.pem" $((seconds * 1000)) \
                "$(pairs_of "${certificate_dir[$2]}" | wc -l)"
            ;;
    esac
}
