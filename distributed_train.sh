#!/usr/bin/env bash
# The original repository's training command: ./distributed_train.sh PROCESSES DATA [flags of timm's train.py].
# One node; NCCL on GPUs, gloo on CPUs. --lr is taken as it is, as timm does, whatever the batch (--lr-batch 0).
set -euo pipefail
if [ $# -lt 2 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: ./distributed_train.sh PROCESSES DATA [--model rexnetv1 --rex-width-mult 1.0 --lr 0.5 ...]" >&2
    exit 2
fi
processes=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}
# torchrun would set the same, and warn about it.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
    -m rexnet train --recipe imagenet --lr-batch 0 "$@"
