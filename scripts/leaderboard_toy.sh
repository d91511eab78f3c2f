#!/bin/sh
# Makes the leaderboard's entries on the toy world: runs of three seeds, each method next to its control. Stop it at any
# time: the same command continues, and each finished group is added to the table.
#   scripts/leaderboard_toy.sh [FOLDER OF THE RUNS]       by default runs/leaderboard; PYTHON and SEEDS can be set
cd "$(dirname "$0")/.." || exit 1
runs=${1:-runs/leaderboard}
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-0 1 2}

group() {  # METHOD NAME CONTROL EARLIER [name=value ...]: CONTROL is another group or -, EARLIER such as classifier=cam or -
    method=$1 name=$2 control=$3 earlier=$4
    shift 4
    folders=
    for seed in $seeds; do
        folder=$runs/$name-$seed
        folders="$folders $folder"
        [ -f "$folder/metrics.json" ] && continue
        given=
        [ "$earlier" = - ] || given="${earlier%%=*}=$runs/${earlier#*=}-$seed"
        "$python" -m wsss_lib run "$method" preset=toy "seed=$seed" "out=$folder" $given "$@" || return
    done
    against=
    [ "$control" = - ] || against="--control $control"
    "$python" -m wsss_lib leaderboard add $folders --name "$name" $against
}

group cam cam - -
group cam cam-scratch cam - pretrained=False
group oc_cse oc-cse-without-erasing cam classifier=cam erasing_weight=0 erasing_slope=0
group oc_cse oc-cse oc-cse-without-erasing classifier=cam
group acr acr-no-adversary cam classifier=cam adversarial_target_weight=0 adversarial_rest_weight=0
group acr acr acr-no-adversary classifier=cam
group affinitynet affinitynet cam cams=cam
group irn irn cam cams=cam
group pcss pcss-neither - - phase_weight=0 shortcut_weight=0
group pcss pcss pcss-neither -
group msal msal-plain - - dcr=off iterations=0 training_iterations=0 ipc_weight=0 along_superpixels=False
group msal msal msal-plain -
"$python" -m wsss_lib leaderboard page
