#!/usr/bin/env bash
# Build the image of envs/<name>.def where the rules look for it, unless it is there already.
#
#     envs/build_image.sh eagle3|sglang|vllm
#
# BASE    image to build upon: docker://…, or a folder or .sif file; default: the definition's, and for
#         a CUDA build the same with a compiler
# TORCH   eagle3 only, torch's build: cpu (default), or a CUDA build by its name, such as cu130
# PYTHON  an interpreter with pip, to fetch wheels with; default: python3
#
# Neither BASE nor TORCH is part of the image's name: an image of other ones is built anew over it.
set -euo pipefail
cd "$(dirname "$0")"

name=${1:?eagle3, sglang or vllm}
python=${PYTHON:-python3}
torch=${TORCH:-cpu}
image=$(cd .. && "$python" -m eagle3.workflow.containers "$name")
arguments=()
wanted=()
if [[ $name == eagle3 ]]; then
  arguments+=(--build-arg "torch=$torch")
  wanted+=("torch: $torch")
  [[ $torch == cpu ]] || BASE=${BASE:-docker://python:3.11-bookworm}
fi
if [[ -n ${BASE:-} ]]; then
  bootstrap=localimage base=$BASE
  [[ $BASE != *://* ]] || bootstrap=${BASE%%://*} base=${BASE#*://}
  arguments+=(--build-arg "bootstrap=$bootstrap" --build-arg "base=$base")
  wanted+=("base: $bootstrap $base")
fi

if [[ -f $image ]]; then
  labels=$(apptainer inspect --labels "$image")
  same=yes
  for label in "${wanted[@]}"; do
    grep -qxF "$label" <<<"$labels" || same=no
  done
  if [[ $same == yes ]]; then
    echo "$image is there already"
    exit
  fi
fi

mkdir -p images
work=$(mktemp -d "$PWD/images/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [[ $name == eagle3 ]]; then
  version=$(sed -n 's/^torch==//p' eagle3.txt)
  fetch() {
    "$python" -m pip download --quiet --dest "$work/wheels" --only-binary :all: \
      --python-version 3.11 --requirement eagle3.txt "torch==$version+$torch" "$@"
  }
  # an index or folder that pip is configured with may have torch's build; else PyTorch's own index
  "$python" -m pip download --quiet --dest "$work/wheels" --only-binary :all: --no-deps \
    --python-version 3.11 "torch==$version+$torch" 2>/dev/null && fetch ||
    fetch --extra-index-url "https://download.pytorch.org/whl/$torch"
  arguments+=(--build-arg "wheels=$work/wheels")
fi
# Apptainer unpacks beside the result, since /tmp may be small; gzip's default level takes minutes
APPTAINER_TMPDIR=$work apptainer build --fakeroot --mksquashfs-args "-Xcompression-level 2" \
  "${arguments[@]}" "$work/image.sif" "$name.def"
mv "$work/image.sif" "$image"
echo "$image"
