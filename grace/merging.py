"""From config.yaml and the command line to the settings of one study."""

from __future__ import annotations

from typing import Any

from grace.section import UserError, hint, merge

KEYS = {
    "study", "preset", "seeds", "backbones", "ablations", "tradeoff", "partial", "available_backbones",
    "available_encoders", "sources", "defaults", "presets", "studies",
}  # fmt: skip
NULLS = ("null", "Null", "NULL", "~")  # as YAML writes it


def check_keys(config: dict[str, Any]) -> None:
    """Raises: UserError for a key that is unknown or missing at the top."""
    for key in config:
        if key not in KEYS:
            raise UserError(f"config: {key}: unknown key{hint(key, KEYS)}.")
    for key in sorted(KEYS - {"seeds", "backbones"}):
        if key not in config:
            raise UserError(f"config: {key}: this key is missing.")
    for key in ("available_backbones", "available_encoders", "sources", "defaults", "presets", "studies"):
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
    return merged


def switch(config: dict[str, Any], key: str) -> bool:
    """A key that is true or false; from the command line `true` may come as text."""
    value = config[key]
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise UserError(f"config: {key}: it is {value!r}; give true or false.")
    return value
