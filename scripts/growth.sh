#!/usr/bin/env bash
# Trains, dispatches and scores a pool that grows to eight experts, beside one expert that learns the tasks in sequence and
# one that learns them together: scripts/growth.sh FOLDER SEED [KEY=VALUE ...], the last for every command.
# What is there already is not made again, and a training that was interrupted goes on. EXPERTS=4 ends with four,
# QUESTIONS=200 scores so many of each task. ORACLE=true scores every expert on every task, too, which bounds what choosing
# among them can reach and takes as long as scoring the pools.
# Then: python -m t2.evaluation.growth FOLDER ...
set -euo pipefail
[[ $# -ge 2 ]] || { echo "usage: scripts/growth.sh FOLDER SEED [KEY=VALUE ...]" >&2; exit 2; }
folder=$1 seed=$2
shift 2
everywhere=("$@")
python=${PYTHON:-python}
domains=(sums reading differences spelling fractions reversal filter products)
tasks=(add2 needle_begun subtract2 spell_begun fraction_begun reversal_begun filter_begun products_2)
count=${EXPERTS:-${#domains[@]}}

run() { # FOLDER SCRIPT KEY=VALUE...
	local into=$1 script=$2
	shift 2
	if [[ -f $into/results.json || -f $into/centroids.safetensors ]]; then return; fi
	if [[ -f $into/checkpoints/last.ckpt ]]; then
		"$python" "$script".py resume="$into"
		return
	fi
	rm -f "$into/expert.safetensors" # of a training that ended before its first step, which would be refused here
	"$python" "$script".py "$@" "${everywhere[@]}" seed="$seed" hydra.run.dir="$into"
}
train() { run "$1" train experiment=growth/expert logger=csv "${@:2}"; }
score() { run "$1" evaluate benchmarks=growth limit="${QUESTIONS:-100}" uniform=false generation.batch_rows=128 logger=none "${@:2}"; }
without() { # PREFIX NAME...: what is not learned yet is left out
	local prefix=$1
	shift
	for name in "$@"; do echo "~$prefix.$name"; done
}

for at in $(seq 1 "$count"); do
	domain=${domains[at - 1]}
	about=(task="${tasks[at - 1]}" domain="$domain" description="$domain")
	train "$folder/expert_$at" "${about[@]}"
	if ((at == 1)); then continue; fi
	before=$folder/sequence_$((at - 1))
	if ((at == 2)); then before=$folder/expert_1; fi
	train "$folder/sequence_$at" "${about[@]}" start_from="$before"
done
steps=$((45 * count)) # as many of each task as an expert has
mapfile -t untaught < <(without task.tasks "${domains[@]:count}")
run "$folder/joint" train experiment=growth/joint logger=csv "${untaught[@]}" domain=all description=all \
	steps="$steps" callbacks.validation.every="$steps"

# Each expert on its own task, then each pool, and what learned in sequence, on the tasks that are known by then; the forms of
# the base once.
for at in $(seq 1 "$count"); do
	score "$folder/score_own_$at" only="${domains[at - 1]}" controls=null expert="$folder/expert_$at"
done
for size in $(seq "$count" -1 3); do
	pool=$folder/pool_$size
	mkdir -p "$pool"
	for at in $(seq 1 "$size"); do cp "$folder/expert_$at/expert.safetensors" "$pool/${domains[at - 1]}.safetensors"; done
	mapfile -t unlabelled < <(without task.domains "${domains[@]:size}")
	mapfile -t untaught < <(without benchmarks "${domains[@]:size}")
	pooled=(experts=folder experts.experts="$pool")
	run "$folder/centroids_$size" adapt "${pooled[@]}" strategy=centroid task=dispatch_growth "${unlabelled[@]}"
	cp "$folder/centroids_$size/centroids.safetensors" "$pool/"
	controls=null singles=false
	if ((size == count)); then
		singles=${ORACLE:-false}
		controls='{_target_: t2.evaluation.selection.Controls, shots: 3, limit: 50}'
		score "$folder/score_joint" "${untaught[@]}" controls=null expert="$folder/joint"
	fi
	score "$folder/score_pool_$size" "${untaught[@]}" "${pooled[@]}" strategy=centroid controls="$controls" singles="$singles"
	score "$folder/score_sequence_$size" "${untaught[@]}" controls=null expert="$folder/sequence_$size"
done
