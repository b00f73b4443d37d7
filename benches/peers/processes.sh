# Processes: the app servers, and instances of proxies with their configurations. Sourced by `run`.
#
# An instance is a proxy in one setting: `rota`, `nginx.high`. It has a directory $dir/INSTANCE, called @OWN@ in its configuration.

dir=$(mktemp -d)
declare -A pid plain tls start_ms
started=()

stop_all() {
    local one
    for one in ${started[@]+"${started[@]}"}; do kill -TERM "$one" 2>/dev/null || true; done
    for one in ${started[@]+"${started[@]}"}; do
        for _ in $(seq 50); do kill -0 "$one" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$one" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap stop_all EXIT
trap 'exit 1' INT TERM

say() { echo "$*" >&2; }
die() { say "$*"; exit 1; }

listens() { # a subshell: its descriptor closes with it
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

answers() { # answers PORT HOST
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1"
        printf 'GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" >&3
        read -r -t 10 line <&3
        [[ $line == "HTTP/1.1 200"* ]]
    ) 2>/dev/null
}

ports=
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        case " $ports " in *" $port "*) continue ;; esac
        listens "$port" || break
    done
    ports+=" $port" found_port=$port
}

on_core() { # on_core CORE COMMAND…: runs in this shell's place, so that $! is the command's
    exec taskset -c "$1" env LD_LIBRARY_PATH="$libraries" "${@:2}"
}

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

start() { # start INSTANCE CORE PORT COMMAND…: waits for its first answer
    local begin
    begin=$(now_ms)
    (on_core "$2" "${@:4}") >"$dir/$1/out" 2>&1 &
    pid[$1]=$!
    started+=($!)
    while ! answers "$3" h0.test; do
        kill -0 "${pid[$1]}" 2>/dev/null && [ $(($(now_ms) - begin)) -lt 20000 ] || {
            cat "$dir/$1/out" "$dir/$1/log" >&2 2>/dev/null || true
            die "$1 does not start"
        }
        sleep 0.005
    done
    start_ms[$1]=$(($(now_ms) - begin))
}

stop() { # stop INSTANCE
    kill -TERM "${pid[$1]}" && wait "${pid[$1]}" || true
}

prepare() {
    chmod 755 "$dir"
    mkdir "$dir/www"
    head -c 1048576 /dev/zero >"$dir/www/large"
    chmod -R a+rX "$dir/www"
    certificates one 1 each
    free_port
    start_origin origin "127.0.0.1:$found_port"
    echo "127.0.0.1:$found_port" >"$dir/one-server"
    ulimit -n "$(ulimit -Hn)"
}

start_origin() { # start_origin INSTANCE LISTEN-ADDRESS…
    local address
    mkdir "$dir/$1"
    for address in "${@:2}"; do echo "listen $address backlog=4096;"; done | part "$1" LISTEN
    head -c 1024 /dev/zero | tr '\0' x | part "$1" KIB
    echo "${2##*:}" | part "$1" ORIGIN
    fill "$1" origin.conf
    start "$1" "$load_core" "${2##*:}" "$nginx_bin" -p "$dir/$1" -c "$dir/$1/origin.conf"
}

start_proxy() { # start_proxy INSTANCE, as it is configured
    local own=$dir/$1
    case ${1%%.*} in
        rota) set -- "$1" "$rota_bin" run --config "$own/rota.toml" ;;
        nginx) set -- "$1" "$nginx_bin" -p "$own" -c "$own/nginx.conf" ;;
        haproxy) set -- "$1" "$haproxy_bin" -db -f "$own/haproxy.cfg" ;;
    esac
    start "$1" "$proxy_core" "${plain[$1]}" "${@:2}"
}

family() { # the instance's process and its workers
    echo "${pid[$1]} $(cat "/proc/${pid[$1]}/task/"*/children 2>/dev/null)"
}

cpu_ns() { # CPU time of all threads so far
    local process files=()
    for process in $(family "$1"); do files+=(/proc/"$process"/task/*/schedstat); done
    cat "${files[@]}" 2>/dev/null | awk '{ sum += $1 } END { printf "%.0f", sum }'
}

ticks() { # of the CPU so far: "USER SYSTEM"
    local process files=()
    for process in $(family "$1"); do files+=(/proc/"$process"/stat); done
    cat "${files[@]}" 2>/dev/null | sed 's/.*) //' | awk '{ user += $12; kernel += $13 } END { print user, kernel }'
}

memory_kib() { # what it alone has, and its share of what it shares
    local process files=()
    for process in $(family "$1"); do files+=(/proc/"$process"/smaps_rollup); done
    awk '/^Pss:/ { sum += $2 } END { print sum }' "${files[@]}"
}
