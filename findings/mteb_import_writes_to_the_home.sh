#!/usr/bin/env bash
# mteb 2.26.24: `import mteb` makes the folder .cache/mteb in the user's home, before anything is evaluated and whatever
# cache is passed later on. HF_HOME does not move it, MTEB_CACHE does. On a machine whose home cannot be written, as on
# the nodes of some clusters, the import itself fails.
#
# Seen: with HF_HOME elsewhere the home holds .cache/mteb after the import; with MTEB_CACHE set it holds nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mteb==2.26.24
mkdir "$folder/first" "$folder/second"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" MPLCONFIGDIR="$folder/plots"
env -u XDG_CACHE_HOME -u MTEB_CACHE HOME="$folder/first" "$folder/venv/bin/python" -c 'import mteb'
env -u XDG_CACHE_HOME HOME="$folder/second" MTEB_CACHE="$folder/elsewhere" "$folder/venv/bin/python" -c 'import mteb'
(cd "$folder" && find first second -type d)
[ -d "$folder/first/.cache/mteb" ] && [ ! -e "$folder/second/.cache" ] || { echo "the behaviour has changed"; exit 1; }
