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

late_at_most=50 # µs, p99: a pair of rounds in which the load itself was later says more of the machine, and is made again

# Latencies at half of what the second proxy can carry at most, $RATE_PERCENT of it (50): through instances of their own, whose app
# server is the load's own thread. All who take part get real-time priority where that is allowed: else p99 is what else the machine does.
measure_half_rate() {
    local proxy round tries=0 rate
    open_pace
    for proxy in "${proxies[@]}"; do
        configure "$proxy.paced" 0 "$dir/paced-server" "$dir/one"
        start_proxy "$proxy.paced"
    done
    for round in 1 2 3; do
        for proxy in "${proxies[@]}"; do pace_peak "$proxy" "$round"; done
    done
    # The highest: whatever else ran meanwhile made the others lower.
    rate=$(awk -v who="${proxies[1]}" -v percent="$rate_percent" '
        $1 == "half-rate-peak" && $2 == who && $4 > peak { peak = $4 }
        END { printf "%d", peak * percent / 100 }' "$dir/figures")
    say "half-rate: $rate requests a second"
    preempting
    round=1
    while [ "$round" -le "$rounds" ]; do
        [ $((tries += 1)) -le $((4 * rounds)) ] || die "half-rate: the load itself is late too often"
        ! pace_all "$round" "$rate" || round=$((round + 1))
    done
    say "half-rate: $((tries - rounds)) of $tries rounds were made again"
    close_pace
    for proxy in "${proxies[@]}"; do stop "$proxy.paced"; done
}

open_pace() {
    local line
    free_port
    echo "127.0.0.1:$found_port" >"$dir/paced-server"
    coproc pacer { on_core "$load_core" "$load_bin" paced "127.0.0.1:$found_port"; }
    read -r -t 10 line <&"${pacer[0]}" || die "no app server at port $found_port"
}

pace() { # pace PROXY peak|rate [REQUESTS-A-SECOND]: its line to $paced
    echo "$2 127.0.0.1:${plain[$1.paced]} ${3:-} $seconds 64" >&"${pacer[1]}"
    read -r -t 60 paced <&"${pacer[0]}" || die "$2 through $1: no figure without all answers"
}

pace_peak() { # pace_peak PROXY ROUND
    local answered spare
    pace "$1" peak
    read -r answered _ _ _ _ _ spare <<<"$paced"
    figure half-rate-peak "$1" "$2" "$answered" "spare=$spare%"
}

pace_all() { # pace_all ROUND REQUESTS-A-SECOND: false if the load was late
    local proxy p50 p99 p999 longest late spare lines=()
    for proxy in "${proxies[@]}"; do
        pace "$proxy" rate "$2"
        lines+=("$proxy $paced")
        read -r _ p50 p99 p999 longest late spare <<<"$paced"
        awk -v late="$late" -v most="$late_at_most" 'BEGIN { exit late > most }' || { say "half-rate: $late µs late, p99 $p99: again"; return 1; }
    done
    while read -r proxy _ p50 p99 p999 longest late spare; do
        figure half-rate-50 "$proxy" "$1" "$p50"
        figure half-rate "$proxy" "$1" "$p99" "longest=$longest"
        figure half-rate-999 "$proxy" "$1" "$p999"
        figure half-rate-late "$proxy" "$1" "$late" "spare=$spare%"
    done < <(printf '%s\n' "${lines[@]}")
}

close_pace() {
    local input=${pacer[1]} process=$pacer_PID
    exec {input}>&-
    wait "$process" || true
}

preempting() {
    local proxy process
    chrt --fifo 1 true 2>/dev/null || { say "no real-time priority here: tails are also the machine's"; return 0; }
    chrt --all-tasks --fifo --pid 1 "$pacer_PID"
    for proxy in "${proxies[@]}"; do
        for process in $(family "$proxy.paced"); do chrt --all-tasks --fifo --pid 1 "$process"; done
    done
}
