"""Bring an encoder-only model, from a package, the hub or a local folder, into its folder in the study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from grace.config.section import UserError
from grace.config.specs import EncoderSpec
from grace.encoder.encoder import EncoderOnly, check_encoder
from grace.encoder.hub import packaged
from grace.jobs import manifest, stage
from grace.jobs.files import write_json
from grace.training.download import copy, from_hub


@stage.entry(EncoderSpec, outputs=("out",))
def main(spec: EncoderSpec, paths: SimpleNamespace) -> None:
    folder, at = Path(paths.out).parent, spec.encoder
    if at.id:
        from_hub(at.id, at.revision, folder, "available_encoders", "{path: FOLDER}", _loads)
    else:
        source = packaged(at.package, str(at.version), str(at.folder)) if at.package else Path(str(at.path))
        check_encoder(source)
        copy(source, folder, "available_encoders")
    EncoderOnly(folder, "cpu")  # its errors come before other jobs ask for GPUs
    write_json(paths.out, manifest.make("encoder", spec, [folder], paths.started))


def _loads(folder: Path) -> bool:
    try:
        EncoderOnly(folder, "cpu")
    except UserError:
        return False
    return True


if __name__ == "__main__":
    main()
