# Measuring: "WHAT WHO ROUND FIGURE" lines go to $dir/figures. WHO is an instance. Sourced by `run`.

figure() { # figure WHAT WHO ROUND FIGURE [REMARK]
    echo "$1 $2 $3 $4" >>"$dir/figures"
    say "$*"
}

cpu_round() { # cpu_round SCENARIO INSTANCE ROUND: CPU time a request in µs, of which in user mode
    local before after ticks_before ticks_after answered
    before=$(cpu_ns "$2") ticks_before=$(ticks "$2")
    answered=$(load "$1" "$2")
    after=$(cpu_ns "$2") ticks_after=$(ticks "$2")
    [ "${answered:-0}" -gt 0 ] || die "$1: $2 answered nothing"
    # shellcheck disable=SC2046 # two words
    figure "$1" "$2" "$3" $(awk -v spent=$((after - before)) -v n="$answered" -v ticks="$ticks_before $ticks_after" 'BEGIN {
        split(ticks, t, " ")
        user = t[3] - t[1]
        all = user + t[4] - t[2]
        printf "%.3f user=%.2f\n", spent / 1000 / n, all ? spent / 1000 / n * user / all : 0
    }')
}

cpu_rounds() { # cpu_rounds SCENARIO INSTANCE…: round after round, instance after instance
    local round instance full=$seconds
    seconds=1
    for instance in "${@:2}"; do load "$1" "$instance" >/dev/null; done
    seconds=$full
    for round in $(seq "$rounds"); do
        for instance in "${@:2}"; do cpu_round "$1" "$instance" "$round"; done
    done
}

measure_rest() { # fresh processes, nothing asked yet
    local proxy
    for proxy in "${proxies[@]}"; do figure rest "$proxy" 1 "$(memory_kib "$proxy")"; done
}

measure_idle() { # measure_idle idle|idle-plain: fresh processes, since what has served large bodies may hold more than connections need
    local proxy before connections=$((idle_connections + 2048))
    for proxy in "${proxies[@]}"; do
        stop "$proxy"
        configure "$proxy" 0 "$dir/one-server" "$dir/one"
        start_proxy "$proxy"
        seconds=1 load tls "$proxy" >/dev/null
        before=$(memory_kib "$proxy")
        case $1 in
            idle) hold "${tls[$proxy]}" "$dir/one/authority.pem" ;;
            idle-plain) hold "${plain[$proxy]}" ;;
        esac
        sleep 3 # what was needed for answering may be given back
        figure "$1" "$proxy" 1 "$(awk -v kib=$(($(memory_kib "$proxy") - before)) -v n="$idle_connections" 'BEGIN { printf "%.2f", kib / n }')"
        release
    done
}

hold() { # hold PORT [AUTHORITY]: until `release`; a holder without this script ends by itself, since its input does
    local line
    coproc holder { on_core "$load_core" "$load_bin" hold "127.0.0.1:$1" "$idle_connections" "${@:2}"; }
    read -r -t 120 line <&"${holder[0]}" || die "$idle_connections connections cannot be opened"
}

release() { # all of them are still there, or the figure is none
    local line input=${holder[1]} process=$holder_PID
    exec {input}>&-
    read -r -t 60 line <&"${holder[0]}" || die "not all of $idle_connections connections were held"
    wait "$process" || true
}

# Latencies at half of what the second proxy can carry at most. All who take part get real-time priority where that is allowed, the
# app server before the load: else p99 is the slices of time that the two share their core in, and whatever else the machine does.
measure_half_rate() {
    local proxy round peak rate line
    peak=$(wrk_load 64 "http://localhost:${plain[${proxies[1]}]}/")
    rate=$((peak / seconds / 2))
    say "half-rate: $rate requests a second"
    preempting
    for round in $(seq 0 "$rounds"); do
        for proxy in "${proxies[@]}"; do
            line=$(own_load rate "127.0.0.1:${plain[$proxy]}" "$rate" "$seconds" 64)
            [ "$round" = 0 ] || latencies "$proxy" "$round" "$line" # the first one is a warm-up
        done
    done
    sharing
}

latencies() { # latencies PROXY ROUND LINE
    local p50 p99 p999 longest late
    read -r _ p50 p99 p999 longest late <<<"$3"
    figure half-rate-50 "$1" "$2" "$p50"
    figure half-rate "$1" "$2" "$p99" "longest=$longest"
    figure half-rate-999 "$1" "$2" "$p999"
    figure half-rate-late "$1" "$2" "$late"
}

preempting() {
    local proxy process
    chrt --fifo 2 true 2>/dev/null || { say "no real-time priority here: tails are also the machine's"; return 0; }
    load_priority=(chrt --fifo 1)
    for process in $(family origin); do chrt --all-tasks --fifo --pid 2 "$process"; done
    for proxy in "${proxies[@]}"; do
        for process in $(family "$proxy"); do chrt --all-tasks --fifo --pid 1 "$process"; done
    done
}

sharing() {
    local instance process
    load_priority=()
    for instance in origin "${proxies[@]}"; do
        for process in $(family "$instance"); do chrt --all-tasks --other --pid 0 "$process"; done
    done
}
