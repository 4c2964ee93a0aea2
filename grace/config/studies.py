"""From config.yaml and the command line to the settings of one study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grace.config.section import UserError, hint, merge

# Mappings that the folder of studies fills, then what config.yaml and the command line may set beside them.
MAPPINGS = ("available_backbones", "available_encoders", "sources", "defaults", "presets", "studies")
OPTIONAL = {"seeds", "backbones"}
KEYS = {"study", "preset", "ablations", "tradeoff", "partial", *MAPPINGS, *OPTIONAL}
NULLS = ("null", "Null", "NULL", "~")  # as YAML writes it

STUDIES = Path(__file__).parents[2] / "studies"
# Its files that are no study.
SHARED = ("backbones", "defaults", "exhibits", "presets")


def read_config(path: Path) -> dict[str, Any]:
    """A file as `--configfile` takes it, on top of config.yaml and the studies.

    Raises:
        UserError: for a file that is no such thing.
    """
    found: dict[str, Any] = {}
    for one in (STUDIES.with_name("config.yaml"), path):
        try:
            values = yaml.safe_load(one.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{one}: not a YAML file of settings; correct it, or --config.")
        found = merge(found, values)
    return with_studies(found)


def with_studies(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration on top of the folder of studies. Raises: UserError for a key that holds no keys."""
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(STUDIES.glob("*.yaml"))}
    shared = {
        **files["backbones"],
        "defaults": {**files["defaults"], **files["exhibits"]},
        "presets": files["presets"],
        "studies": {name: study for name, study in files.items() if name not in SHARED},
    }
    for key in MAPPINGS:
        check_mapping(key, config.get(key) or {})
    return {**config, **{key: merge(shared[key], config.get(key) or {}) for key in MAPPINGS}}


def likened(runs: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The runs, each `like` another with that one's keys below its own. Of a dropped one those of `defaults` count.

    Raises:
        UserError: for a run like one that is not there, or like itself.
    """

    def whole(name: str, seen: tuple[str, ...] = ()) -> Any:
        entry = runs.get(name) or defaults.get(name)
        if not isinstance(entry, dict) or (other := entry.get("like")) is None:
            return entry
        if other in (*seen, name):
            raise UserError(f"config: runs.{other}.like: the runs are like each other in a circle.")
        if not isinstance(base := whole(str(other), (*seen, name)), dict):
            raise UserError(f"config: runs.{name}.like: unknown run {other!r}{hint(str(other), {**defaults, **runs})}.")
        return merge(base, {key: value for key, value in entry.items() if key != "like"})

    return {name: None if entry is None else whole(name) for name, entry in runs.items()}


def check_keys(config: dict[str, Any]) -> None:
    """Raises: UserError for a key that is unknown or missing at the top."""
    for key in config:
        if key not in KEYS:
            raise UserError(f"config: {key}: unknown key{hint(key, KEYS)}.")
    for key in sorted(KEYS - OPTIONAL):
        if key not in config:
            raise UserError(f"config: {key}: this key is missing.")
    for key in MAPPINGS:
        check_mapping(key, config[key])


def check_mapping(where: str, value: Any) -> None:
    """Raises: UserError for what is no mapping."""
    if not isinstance(value, dict):
        raise UserError(f"config: {where}: it is {value!r}; give keys with their values.")


def with_nulls(value: Any) -> Any:
    """The configuration with null for the text "null": nested values of `snakemake --config` all come as text."""
    if isinstance(value, dict):
        return {key: with_nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nulls(item) for item in value]
    return None if isinstance(value, str) and value in NULLS else value


def merged_study(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Defaults, preset and the study with those that it extends, merged."""
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    at: str | None = name
    while at is not None:
        if at in seen:
            raise UserError(f"config: studies.{at}.extends: the studies extend each other in a circle.")
        if at not in config["studies"]:
            raise UserError(f"config: studies.{seen[-1]}.extends: unknown study {at!r}.")
        seen.append(at)
        chain.append(config["studies"][at] or {})
        check_mapping(f"studies.{at}", chain[-1])
        at = chain[-1].get("extends")
    preset = config["presets"][config["preset"]] or {}
    check_mapping(f"presets.{config['preset']}", preset)
    merged = merge(config["defaults"], preset)
    for key in ("evaluation", "ablations"):
        for layer in (config["defaults"], preset, *chain):
            check_mapping(key, layer.get(key, {}))
    for layer in reversed(chain):
        groups = layer.get("evaluation", {}).get("groups")
        grids = {key: entry for key, entry in layer.get("ablations", {}).items() if isinstance(entry, dict)}
        merged = merge(merged, layer)
        if groups is not None:  # a list of jobs is replaced whole
            merged = {**merged, "evaluation": {**merged["evaluation"], "groups": groups}}
        for key, entry in grids.items():  # and so is what an ablation varies
            whole = {part: entry[part] for part in ("grid", "points") if part in entry}
            merged = {**merged, "ablations": {**merged["ablations"], key: {**merged["ablations"][key], **whole}}}
    check_mapping("runs", merged.get("runs", {}))
    return {**merged, "runs": likened(merged.get("runs", {}), config["defaults"].get("runs", {}))}


def switch(config: dict[str, Any], key: str) -> bool:
    """A key that is true or false; from the command line `true` may come as text."""
    value = config[key]
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise UserError(f"config: {key}: it is {value!r}; give true or false.")
    return value
