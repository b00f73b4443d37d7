# Growth: an instance with few and one with many of something, both measured within one run. Sourced by `run`.

hosts_many=10000 servers_many=1000 certificates_many=5000
starts=3 # of each large instance

# settings SCENARIO low|high: the arguments of `configure`
settings() {
    local end=$2 none="0 $dir/one-server $dir/one"
    case $1.$end in
        hosts.low) echo "1 $dir/one-server $dir/one" ;;
        hosts.high) echo "$hosts_many $dir/one-server $dir/one" ;;
        servers.*) echo "0 $dir/servers-$end $dir/one" ;;
        certificates-*.low) echo "$none" ;;
        certificates-*.high) echo "0 $dir/one-server $dir/$1" ;;
    esac
}

prepare_growth() { # prepare_growth SCENARIO
    case $1 in
        servers)
            free_port
            # 127.0.0.1 to 127.0.0.250, 127.0.1.1 and on
            seq 0 $((servers_many - 1)) | awk -v port="$found_port" '{ printf "127.0.%d.%d:%d\n", $1 / 250, $1 % 250 + 1, port }' >"$dir/servers-high"
            head -3 "$dir/servers-high" >"$dir/servers-low"
            # shellcheck disable=SC2046 # words
            start_origin origin-many $(cat "$dir/servers-high")
            ;;
        certificates-*) certificates "$1" "$certificates_many" "${1#*-}" ;;
    esac
}

measure_growth() { # measure_growth SCENARIO
    local proxy end instance instances=() full=$seconds
    prepare_growth "$1"
    for proxy in "${proxies[@]}"; do
        for end in low high; do
            instance=$proxy.$1-$end
            # shellcheck disable=SC2046 # words
            configure "$instance" $(settings "$1" "$end")
            grow "$1" "$instance"
            instances+=("$instance")
        done
    done
    seconds=$(((seconds + 1) / 2))
    cpu_rounds "$1" "${instances[@]}"
    seconds=$full
    for instance in "${instances[@]}"; do stop "$instance"; done
}

grow() { # grow SCENARIO INSTANCE: starts it some times, and leaves it running
    local number
    for number in $(seq "$starts"); do
        [ "$number" = 1 ] || stop "$2"
        start_proxy "$2"
        figure "$1-start" "$2" "$number" "${start_ms[$2]}"
    done
    figure "$1-memory" "$2" 1 "$(memory_kib "$2")"
}
