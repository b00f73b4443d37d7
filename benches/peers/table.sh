# From figures to tables. Sourced by `run`.

title() {
    case $1 in
        rest) echo "memory at rest (KiB)" ;;
        plain) echo "HTTP/1 keep-alive, 1 KiB, 64 connections (µs)" ;;
        tls) echo "the same over TLS 1.3, P-256 (µs)" ;;
        handshake) echo "full TLS 1.3 handshake and one request (µs)" ;;
        h2) echo "HTTP/2 over TLS, 20 connections × 20 streams, 1 KiB (µs)" ;;
        large) echo "1 MiB answers (µs)" ;;
        large-tls) echo "1 MiB answers over TLS (µs)" ;;
        upload) echo "1 MiB uploads (µs)" ;;
        half-rate-peak) echo "peak rate with the load that latencies are measured with (requests a second)" ;;
        half-rate) echo "p99 at $rate_percent % of ${proxies[1]}'s peak rate, from when each was due (µs)" ;;
        half-rate-50) echo "p50 there (µs)" ;;
        half-rate-999) echo "p99.9 there (µs)" ;;
        half-rate-late) echo "how late the load was itself there, p99: the three above are worth what this is small against them (µs)" ;;
        idle) echo "memory of an idle TLS connection, of $idle_connections (KiB)" ;;
        idle-plain) echo "memory of an idle plain connection, of $idle_connections (KiB)" ;;
        hosts) echo "1 → $hosts_many virtual hosts" ;;
        servers) echo "3 → $servers_many servers in one service" ;;
        certificates-shared) echo "1 → $certificates_many certificates by SNI, one key" ;;
        certificates-each) echo "1 → $certificates_many certificates by SNI, a key each" ;;
    esac
}

statistics='
    function median(list, n,   i, j, swap) {
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && list[j - 1] > list[j]; j--) { swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap }
        return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
    }
    function middle(what, who,   r, n, list) { # over its rounds
        for (r = 1; (what, who, r) in value; r++) list[++n] = value[what, who, r]
        return n ? median(list, n) : 0
    }
    function ratio(what, above, below,   r, n, one, low, high, list) { # round by round: "median (min to max)"
        for (r = 1; (what, above, r) in value && (what, below, r) in value; r++) {
            one = list[++n] = value[what, above, r] / value[what, below, r]
            if (n == 1 || one < low) low = one
            if (one > high) high = one
        }
        return n > 1 ? sprintf("%.2f (%.2f to %.2f)", median(list, n), low, high) : sprintf("%.2f", one)
    }
    { value[$1, $2, $3] = $4 }
'

row() { # row SCENARIO
    awk -v scenario="$1" -v title="$(title "$1")" -v names="${proxies[*]}" "$statistics"'
        END {
            count = split(names, name, " ")
            line = "| " title
            for (p = 1; p <= count; p++) line = line sprintf(" | %.1f", middle(scenario, name[p]))
            print line " | " ratio(scenario, "rota", name[2]) " |"
        }' "$dir/figures"
}

growth_row() { # growth_row SCENARIO PROXY
    awk -v scenario="$1" -v title="$(title "$1")" -v name="$2" "$statistics"'
        END {
            low = name "." scenario "-low"
            high = name "." scenario "-high"
            printf "| %s | %s | %.1f | %.1f | %s | %d | %.1f |\n", title, name, middle(scenario, low), middle(scenario, high),
                ratio(scenario, high, low), middle(scenario "-start", high), middle(scenario "-memory", high) / 1024
        }' "$dir/figures"
}

heading() {
    local proxy
    echo "$(date -u +%Y-%m-%d), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, Linux $(uname -r);" \
        "$(for proxy in "${proxies[@]}"; do version_of "$proxy"; done | paste -sd, | sed 's/,/, /g');" \
        "$rounds rounds of $seconds s each, interleaved; CPU time a request of the proxy, medians."
}

table() { # table SCENARIO…
    local proxy scenario head="| scenario" line="| ---"
    for proxy in "${proxies[@]}"; do head+=" | $proxy" line+=" | ---"; done
    printf '\n%s\n%s\n' "$head | rota ÷ ${proxies[1]} (min to max) |" "$line | --- |"
    for scenario in "$@"; do row "$scenario"; done
}

growth_table() { # growth_table SCENARIO…
    local proxy scenario
    printf '\n%s\n%s\n' "| growth | proxy | µs a request, few | many | many ÷ few (min to max) | start with many (ms) | memory with many, at rest (MiB) |" \
        "| --- | --- | --- | --- | --- | --- | --- |"
    for scenario in "$@"; do
        for proxy in "${proxies[@]}"; do growth_row "$scenario" "$proxy"; done
    done
}
