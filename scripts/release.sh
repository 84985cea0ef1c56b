#!/usr/bin/env bash
# Release a model: check the data, train, report, export behind a gate, try the new version on half of the requests of
# a server on loopback, then make it the current one. A step that fails ends it: the current version stays or comes back.
#
#   scripts/release.sh configs/digits.yaml 'test/accuracy>=0.98' smoke/ [--key=value ...]
#
# smoke/ has some pictures to send. The rest are settings for fit. A server of models/NAME follows by itself.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
config=$1 gate=$2 smoke=$3 name=$(basename "$1" .yaml) port=${PORT:-8765}
shift 3
cli="${PYTHON:-.venv/bin/python} -m src.cli"
models=models/$name

$cli check --config "$config"
$cli fit --config "$config" "$@"
run=$(ls -td "runs/$name"/version_* | head -n 1)
$cli report "$run"
$cli export --run "$run" --output "$models" --gate "$gate" --candidate
new=$(ls "$models" | grep -xE '[0-9]+' | sort -n | tail -n 1)
[ -f "$models/CURRENT" ] || { $cli serve "$models" --use "$new"; exit 0; } # the first version

$cli serve "$models" --port "$port" --canary 0.5 & server=$!
trap 'kill $server 2>/dev/null; wait $server' EXIT
url=http://127.0.0.1:$port
curl --silent --fail --output /dev/null --retry 60 --retry-delay 1 --retry-all-errors "$url/v2/health/ready"

send() { # each picture until the new version answers it; where that fails, the current version does
    for picture in "$smoke"/*; do
        for try in $(seq 40); do # all to the current version once in 1e12 times
            answer=$(curl --silent --fail --show-error --data-binary "@$picture" "$url/predict") || return 1
            case $answer in *"\"version\":$new,"*) continue 2 ;; esac
        done
        echo "version $new did not answer $picture in $try requests" >&2
        return 1
    done
}

send || { echo "version $new failed as a canary: $models/CURRENT stays" >&2; exit 1; }
$cli serve "$models" --use "$new"
sleep 2 # the server follows
send || { $cli serve "$models" --rollback; exit 1; }
