#!/usr/bin/env bash
# snakemake 9.27.1: `cpu_time` of a benchmark file is that of the last sample, not that of the job. A job is sampled twice
# a second for its first 15 s or so, then every 30 s, and never at its end, so what it used after the last sample is
# missing: up to 30 s of CPU, or a peak of memory. Costs summed over many jobs of about a minute come out too small.
#
# Seen: a job that waits for 20 s and then uses 15 s of CPU has none of these in its benchmark file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check snakemake==9.27.1
cat > "$folder/burn.py" <<'PYTHON'
import sys
import time

time.sleep(20)
while time.process_time() < 15:
    pass
open(sys.argv[1], "w").write(str(time.process_time()))
PYTHON
cat > "$folder/Snakefile" <<'SNAKEFILE'
rule burn:
    output: "used.txt"
    benchmark: "benchmark.tsv"
    shell: "python3 burn.py {output}"
SNAKEFILE
cd "$folder"
PATH="$folder/venv/bin:$PATH" snakemake --cores 1 --quiet all
used=$(cat used.txt)
said=$(awk -F '\t' 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "cpu_time") column = i } NR == 2 { print $column }' benchmark.tsv)
echo "used $used s of CPU, the benchmark file says $said s"
awk -v used="$used" -v said="$said" 'BEGIN { exit !(said < 0.9 * used) }' || { echo "the behaviour has changed"; exit 1; }
