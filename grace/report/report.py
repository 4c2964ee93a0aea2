"""Rule `report`: the study on one self-contained page, made by `snakemake --report`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from grace import stage
from grace.files import writing
from grace.section import UserError
from grace.specs import PageSpec


@stage.entry(PageSpec, inputs=("snakefile", "pages*"), outputs=("out",))
def main(spec: PageSpec, paths: SimpleNamespace) -> None:
    with tempfile.TemporaryDirectory() as folder, writing(paths.out) as out:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(spec.config))
        page = out.with_suffix(".html")  # snakemake goes by the ending
        command = [sys.executable, "-m", "snakemake", *map(str, paths.pages), "--snakefile", str(paths.snakefile)]
        command += ["--configfile", str(config), "--nolock", "--cores", "1", "--report", str(page)]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stderr, file=sys.stderr)
        if done.returncode or not page.exists():
            raise UserError("the report could not be made; snakemake's own words are above.")
        page.replace(out)


if __name__ == "__main__":
    main()
