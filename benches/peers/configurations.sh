# What stands in an instance's configuration. Sourced by `run`. The templates name @WORDS@; the text of each is a file in the
# instance's directory, since what 10,000 hosts need is longer than an argument may be.

declare -A host_count certificate_dir
connections=8192 # what nginx and HAProxy have room for, from the start

part() { # part INSTANCE WORD: from standard input
    cat >"$dir/$1/$2"
}

fill() { # fill INSTANCE TEMPLATE
    awk -v own="$dir/$1" -v dir="$dir" '
        function text(word,   line, all, lines) {
            if (word == "OWN") return own
            if (word == "DIR") return dir
            while ((getline line < (own "/" word)) > 0) all = all (lines++ ? "\n" : "") line
            close(own "/" word)
            return all
        }
        {
            while (match($0, /@[A-Z]+@/)) {
                printf "%s%s", substr($0, 1, RSTART - 1), text(substr($0, RSTART + 1, RLENGTH - 2))
                $0 = substr($0, RSTART + RLENGTH)
            }
            print
        }' "$here/$2" >"$dir/$1/$2"
}

certificates() { # certificates NAME COUNT shared|each: below $dir/NAME
    "$load_bin" certificates "$dir/$1" "$2" "$3" >/dev/null
    chmod -R go= "$dir/$1"
}

pairs_of() { # pairs_of DIRECTORY: "NUMBER CERTIFICATE KEY" lines
    local own="$1/%d.key"
    [ -e "$1/0.key" ] && [ -e "$1/1.pem" ] && [ ! -e "$1/1.key" ] && own="$1/0.key"
    seq 0 $(($(find "$1" -name '[0-9]*.pem' | wc -l) - 1)) | awk -v at="$1" -v key="$own" '{ printf "%d %s/%d.pem " key "\n", $1, at, $1, $1 }'
}

# configure INSTANCE HOSTS SERVERS CERTIFICATES: with so many virtual hosts, h0.test and on (0: any host); the servers of a file, an
# address a line; the certificates of a directory, the Nth for cN.test.
configure() {
    mkdir -p "$dir/$1"
    host_count[$1]=$2 certificate_dir[$1]=$4
    free_port; plain[$1]=$found_port
    free_port; tls[$1]=$found_port
    echo "${plain[$1]}" | part "$1" PLAIN
    echo "${tls[$1]}" | part "$1" TLS
    echo "$connections" | part "$1" CONNECTIONS
    configure_"${1%%.*}" "$@"
}

configure_rota() {
    pairs_of "$4" | awk '{ printf "    { certificate = \"%s\", key = \"%s\" },\n", $2, $3 }' | part "$1" CERTIFICATES
    sed 's/.*/    "&",/' "$3" | part "$1" SERVERS
    hosts "$2" | awk '{ printf "[[route]]\nhost = \"%s\"\nservice = \"app\"\n", $1 }' | part "$1" ROUTES
    fill "$1" rota.toml
}

hosts() { # hosts COUNT: a line each
    if [ "$1" = 0 ]; then echo '*'; else seq 0 $(($1 - 1)) | sed 's/.*/h&.test/'; fi
}

configure_nginx() { # plain text for each host, TLS for each certificate
    sed 's/.*/        server &;/' "$3" | part "$1" SERVERS
    {
        hosts "$2" | awk -v listen="127.0.0.1:${plain[$1]}" '{
            sub(/\*/, "_")
            printf "    server { listen %s%s; server_name %s; location / { proxy_pass http://app; } }\n",
                listen, NR == 1 ? " backlog=4096" : "", $1
        }'
        pairs_of "$4" | awk -v listen="127.0.0.1:${tls[$1]}" '{
            printf "    server { listen %s ssl http2%s; server_name c%d.test; ssl_certificate %s; ssl_certificate_key %s; location / { proxy_pass http://app; } }\n",
                listen, NR == 1 ? " backlog=4096" : "", $1, $2, $3
        }'
    } | part "$1" HOSTS
    fill "$1" nginx.conf
}

configure_haproxy() {
    awk '{ printf "    server s%d %s pool-max-conn 128\n", NR, $1 }' "$3" | part "$1" SERVERS
    find "$4" -name '*.both' | sort -V | part "$1" certificates
    if [ "$2" = 0 ]; then
        echo "    default_backend app"
    else
        hosts "$2" | sed 's/$/ app/' | part "$1" hosts
        echo "    use_backend %[req.hdr(host),field(1,:),lower,map_str($dir/$1/hosts)]"
    fi | part "$1" BACKENDS
    fill "$1" haproxy.cfg
}
