# What the examples of forward-auth share: a keyclasp of their own on free ports, a key, and an end of all of it.
# Read by examples/nginx/run, examples/caddy/run and examples/haproxy/run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="$PATH:$here/../target/release:$here/../target/debug:${XDG_CACHE_HOME:-$HOME/.cache}/keyclasp-tools/bin"
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

fail() {
    printf '%s\n' "$@" >&2
    for log in "$dir"/*.log; do tail -n 20 "$log" >&2; done
    exit 1
}

# need PROGRAM: it has to be there.
need() {
    command -v "$1" >/dev/null ||
        { printf '%s is not on PATH; scripts/setup.sh gets the proxies, `cargo build --release` keyclasp\n' "$1" >&2; exit 1; }
}

# free_port NAME: sets NAME to a port that nobody listens on.
free_port() {
    local port
    while port=$((RANDOM % 10000 + 20000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf -v "$1" %s "$port"; return; }
    done
}

# start NAME COMMAND...: in the background, in $dir, until the end of this script.
start() {
    local name=$1
    shift
    (cd "$dir" && exec "$@") >"$dir/$name.log" 2>&1 </dev/null &
    pids+=($!)
}

# listens PORT NAME: waits until somebody listens.
listens() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        kill -0 "${pids[-1]}" 2>/dev/null || fail "$2 ended:"
        sleep 0.1
    done
    fail "$2 does not listen:"
}

# place FILE...: copies the files of an example, with the ports of this run in them.
place() {
    local file
    for file in "$@"; do
        sed "s/127\.0\.0\.1:7413/127.0.0.1:$keyclasp_port/; s/127\.0\.0\.1:8081/127.0.0.1:$upstream_port/
            s/:8081/:$upstream_port/; s/:8080/:$proxy_port/" "$file" >"$dir/$(basename "$file")"
    done
}

need curl
need keyclasp
for name in $(compgen -e KEYCLASP_ || true); do unset "$name"; done
free_port keyclasp_port
free_port ops_port
free_port upstream_port
free_port proxy_port
keyclasp init --dir "$dir/keyclasp" >"$dir/init.log" 2>&1 || fail 'keyclasp init:'
# The proxy's address is all that it proves.
printf '\n[forward_auth]\npeers = ["127.0.0.1/32"]\n' >>"$dir/keyclasp/keyclasp.toml"
KEYCLASP_SERVER__LISTEN=127.0.0.1:$keyclasp_port KEYCLASP_SERVER__OPS_LISTEN=127.0.0.1:$ops_port \
    start keyclasp keyclasp serve --config "$dir/keyclasp/keyclasp.toml"
listens "$ops_port" keyclasp
for ((tries = 0; tries < 600; tries++)); do
    if curl -sf -o /dev/null "http://127.0.0.1:$ops_port/readyz"; then break; fi
    sleep 0.1
done
export KEYCLASP_ENDPOINT=http://127.0.0.1:$keyclasp_port KEYCLASP_TOKEN_FILE=$dir/keyclasp/admin.token
key=$(keyclasp key create --realm acme --owner user:ada --name example --scope orders:read --ttl 1h --quiet) ||
    fail 'no key was made'

# show TITLE CURL-ARGUMENTS...: a request to the proxy and its answer.
show() {
    printf '\n# %s\n' "$1"
    shift
    local path=$1
    shift
    curl -sS -i --max-time 20 "http://127.0.0.1:$proxy_port$path" "$@"
    printf '\n'
}

# What each of the examples shows.
show_all() {
    show 'With a key: the upstream learns whose it is, and not the key' /reports -H "X-API-Key: $key"
    show 'Without a key' /reports
    show 'A key without a required scope' /orders/1 -H "X-API-Key: $key"
    show 'Somebody who says to be somebody else' /catalog/ -H 'X-Keyclasp-Owner: root'
}
