"""The benchmark of the optimizer, run whole on the demo's shapes."""

from bench import muon
from grace.jobs.files import read_json


def test_the_command_writes_its_entry(tmp_path, capsys):
    muon.main(["--repeats", "2", "--json", str(tmp_path / "bench.json")])
    [entry] = read_json(tmp_path / "bench.json", list)
    assert entry["name"] == "muon_vs_torch" and 0 < entry["low"] <= entry["ratio"] <= entry["high"]
    assert "torch / ours" in capsys.readouterr().out
