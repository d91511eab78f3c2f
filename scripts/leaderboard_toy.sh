#!/bin/sh
# Makes the leaderboard's entries on the toy world: runs of three seeds, with and without pre-trained weights, each next
# to its control. Stop it at any time: the same command continues, and each finished group is added to the table.
#   scripts/leaderboard_toy.sh [FOLDER OF THE RUNS]       by default runs/leaderboard; PYTHON and SEEDS can be set
cd "$(dirname "$0")/.." || exit 1
runs=${1:-runs/leaderboard}
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-0 1 2}

group() {  # METHOD NAME CONTROL CLASSIFIER [name=value ...]: CONTROL and CLASSIFIER are names of other groups, or -
    method=$1 name=$2 control=$3 classifier=$4
    shift 4
    for footing in "" -scratch; do
        folders=
        for seed in $seeds; do
            folder=$runs/$name$footing-$seed
            folders="$folders $folder"
            [ -f "$folder/metrics.json" ] && continue
            pretrained=True
            [ -n "$footing" ] && pretrained=False
            given=
            [ "$classifier" = - ] || given="classifier=$runs/$classifier$footing-$seed"
            "$python" -m wsss_lib run "$method" preset=toy "seed=$seed" "pretrained=$pretrained" "out=$folder" \
                $given "$@" || return
        done
        against=
        [ "$control" = - ] || against="--control $control$footing"
        [ "$name$footing" = cam-scratch ] && against="--control cam"  # what the pre-trained weights are worth
        "$python" -m wsss_lib leaderboard add $folders --name "$name$footing" $against
    done
}

group cam cam - -
group oc_cse oc-cse-without-erasing cam cam erasing_weight=0 erasing_slope=0
group oc_cse oc-cse oc-cse-without-erasing cam
group acr acr-no-adversary cam cam adversarial_target_weight=0 adversarial_rest_weight=0
group acr acr acr-no-adversary cam
group affinitynet affinitynet - -
group irn irn - -
group pcss pcss-neither - - phase_weight=0 shortcut_weight=0
group pcss pcss pcss-neither -
group msal msal-plain - - dcr=off iterations=0 training_iterations=0 ipc_weight=0
group msal msal msal-plain -
"$python" -m wsss_lib leaderboard page
