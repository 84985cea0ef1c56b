#!/usr/bin/env bash
# Release a model: check the data, train, report, export behind a gate, try the new version on half of the requests of
# a server on loopback, then make it the current one. A step that fails ends it: the current version stays or comes
# back, and the new one is rejected.
#
#   scripts/release.sh configs/digits.yaml 'test/accuracy>=0.98' smoke/ [--key=value ...]
#
# smoke/ has some pictures to send. The rest are settings for check and fit. A server of models/NAME follows by itself.
set -euo pipefail
fail() { echo "$1" >&2; exit "${2:-1}"; }
[ $# -ge 3 ] || fail "$(sed -n '2,8s/^# \{0,1\}//p' "$0")" 2
config=$1 gate=$2 smoke=$3 python=${PYTHON:-.venv/bin/python}
shift 3
cli="$python -m src.cli"
unset SERVE_KEY # which the server would demand

[[ $gate =~ ^[^\ \<\>=]+\ *[\<\>]=?\ *[-+.0-9eE]+$ ]] ||
    fail "the gate must be such as 'test/accuracy>=0.98', got $gate" 2
for picture in "$smoke"/*; do [ -f "$picture" ] || fail "$smoke must be a folder of pictures only" 2; done
$python -c 'from importlib.util import find_spec as f; assert f("onnx") and f("onnxscript") and f("onnxruntime")' \
    2>/dev/null || fail "$python lacks packages that export needs: run make extras" 2

$cli check --config "$config" "$@"
run=$($cli fit --config "$config" "$@" | tee >(cat >&2) | sed -n 's/^run  *//p')
[ -d "$run" ] || fail "fit saved no checkpoint"
$cli report "$run"
version=$($cli export --run "$run" --gate "$gate" --candidate | tee >(cat >&2) | sed -n 's/^version  *\(.*\), a.*/\1/p')
models=${version%/*} new=${version##*/} tmp=$(mktemp -d) server=''
undo="--reject $new"
touch "$tmp/log"
finish() {
    [ -z "$undo" ] || $cli serve "$models" $undo || true
    [ -z "$server" ] || { kill "$server" && wait "$server"; } || true
    cat "$tmp/log" >&2
    rm -r "$tmp"
}
trap finish EXIT

served=$models
if [ ! -e "$models/CURRENT" ]; then # the first version: a copy is tried, so that no server finds it before
    served=$tmp/models
    mkdir "$served"
    cp -R "$version" "$served"
    $cli serve "$served" --use "$new"
fi
$cli serve "$served" --port 0 --drain 0 --canary 0.5 2>"$tmp/log" & server=$!
until url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+$' "$tmp/log"); do
    kill -0 $server 2>/dev/null || fail "the server of $served stopped"
    sleep 0.2
done

curl=(curl --silent --fail --show-error --noproxy '*' --max-time 60)
send() { # each picture until the new version answers it; where that fails, the current version does
    for picture in "$smoke"/*; do
        for try in $(seq 40); do # all to the current version once in 1e12 times
            answer=$("${curl[@]}" --data-binary "@$picture" "$url/predict") || return 1
            case $answer in *"\"version\":$new,"*) continue 2 ;; esac
        done
        echo "version $new did not answer $picture in $try requests" >&2
        return 1
    done
}

send || fail "version $new failed as a canary"
[ ! -e "$version/REJECTED" ] || fail "another server rejected version $new"
$cli serve "$models" --use "$new"
if [ "$served" = "$models" ]; then
    undo=--rollback
    sleep 2 # the server follows
    send || fail "version $new failed as the current one"
fi
undo=
