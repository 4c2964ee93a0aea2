import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from grace.use.page import render

META = {"study": "<demo>", "models": [], "missing": ["a & <b>"], "cases": None, "no_cases": "none", "shown": [0, 0]}


def test_packed_data_come_back_and_hold_no_markup():
    value = {"texts": ["</script><!-- \ud83e 😀 \u2028 ]]>", "x" * 100_000]}
    made = render.packed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", made) and len(made) < 2000
    assert json.loads(gzip.decompress(base64.b64decode(made))) == value
    assert render.packed(value) == made


def test_only_the_pages_own_script_and_style_may_run():
    page = render.render(META, [("<i>", "&")], {"corpus": {}})
    assert "<demo>" not in page and "a & <b>" not in page and "&lt;demo&gt;" in page
    for kind, found in (("script", re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)),
                        ("style", re.search(r"<style>(.*?)</style>", page, re.DOTALL))):  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page
    assert not re.search(r"\bstyle=|\bon\w+=", page.split("<script")[0])


@pytest.mark.skipif(shutil.which("node") is None, reason="no node is installed")
def test_the_script_is_whole(tmp_path):
    page = render.render(META, [], {"corpus": {}})
    path = tmp_path / "page.mjs"
    path.write_text(re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1])
    subprocess.run(["node", "--check", path], check=True)
