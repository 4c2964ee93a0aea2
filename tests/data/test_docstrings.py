import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from grace.config.section import UserError
from grace.data.docstrings import corpus, document, mask, package_files, sublabel, unpinned

NUMPYDOC = '''
def fit_curve(x, y, order=2):
    """Fit a smooth curve through the given points.

    The curve is a polynomial whose coefficients are found by least squares,
    see :func:`solve <pkg.solve>`. ``fit_curve`` is slow for high orders.

    Parameters
    ----------
    x : array_like
        Abscissae of the points.
    y : array_like
        Ordinates of the points.

    Notes
    -----
    High orders oscillate between the points [1]_.

    References
    ----------
    .. [1] A book about it.

    Examples
    --------
    >>> fit_curve([1], [2])
    array([3])
    """


class Buffer:
    """Hold the bytes that are read from the device until a consumer asks for them.

    Args:
        size: The largest number of bytes that are held at any one time.
        timeout (float, optional): Seconds to wait for the device before an error is raised.

    Returns:
        nothing at all
    """

    def flush(self):
        """Too short."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "fakelib"
    (root / "inner" / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "inner" / "__init__.py").write_text("raise RuntimeError('never imported')")
    (root / "inner" / "curves.py").write_text(NUMPYDOC)
    (root / "inner" / "twice.py").write_text(NUMPYDOC)
    (root / "inner" / "broken.py").write_text("def (:")
    (root / "inner" / "latin.py").write_bytes(b'"""caf\xe9 without a coding line, so not Python."""')
    (root / "inner" / "tests" / "test_curves.py").write_text(NUMPYDOC)
    other = NUMPYDOC.replace("smooth", "jagged").replace("read from", "written to")
    (root / "inner" / "newer.py").write_text(f"type Points = list[float]\n{other}")  # Python 3.12 reads it
    (root / "distutils").mkdir()  # numpy has such a folder for Python 3.11 alone
    (root / "distutils" / "core.py").write_text(other)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "fakelib"


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_a_package(package, threads):
    rows = list(corpus([package], threads))
    assert [row["id"] for row in rows] == ["fakelib.inner.curves.fit_curve", "fakelib.inner.curves.Buffer"]
    curve, buffer = rows
    assert curve == {
        "id": "fakelib.inner.curves.fit_curve",
        "query": "Fit a smooth curve through the given points.",
        "positive": "The curve is a polynomial whose coefficients are found by least squares, see solve. [name] is "
        "slow for high orders. High orders oscillate between the points.",
        "label": "fakelib",
        "sublabel": "fakelib.inner",
    }
    # Without prose the sentences of the parameter list stand in, without names and types.
    assert buffer["positive"].startswith("The largest number of bytes that are held at any one time. Seconds to wait")
    assert "size" not in buffer["positive"] and "float" not in buffer["positive"]
    assert "fakelib" not in sys.modules


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="'no_such_package'"):
        list(corpus(["json", "no_such_package"]))
    with pytest.raises(UserError, match=r"'\.\./x'"):
        list(corpus(["../x"]))


def test_enough_draws_files_over_all_packages():
    packages = ["email", "logging", "asyncio"]
    every, some = list(corpus(packages)), list(corpus(packages, enough=60))
    assert 60 <= len(some) < len(every) and some == list(corpus(packages, threads=2, enough=60))
    ids = [row["id"] for row in every]
    assert len(set(ids)) == len(ids) and json.dumps(every).encode()
    assert [ids.index(row["id"]) for row in some] == sorted(ids.index(row["id"]) for row in some)
    assert {row["label"] for row in some} == set(packages)


def test_order_of_files_on_disk_does_not_matter(package, tmp_path, monkeypatch):
    (tmp_path / "fakelib/inner/curves").mkdir()
    (tmp_path / "fakelib/inner/curves/__init__.py").write_text(NUMPYDOC)  # its name is that of curves.py
    found, rglob = package_files(package), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *of: reversed(list(rglob(*of))))
    assert package_files(package) == found


def test_versions_that_the_lock_does_not_pin(tmp_path):
    lock = tmp_path / "requirements.lock"
    torch = version("torch").partition("+")[0]  # as pinned for every build
    lock.write_text(f"Networkx=={version('networkx')}\nscikit_learn==0.1\ntorch=={torch}\n")
    assert unpinned(["networkx", "torch"], lock) == []
    other = [f"scikit-learn {version('scikit-learn')} (0.1)", f"sympy {version('sympy')} (none)"]
    assert unpinned(["sympy", "torch", "sklearn"], lock) == other


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Return the mean of x.", {"mean"}, "Return the mean of x."),  # a plain word keeps its meaning
        ("Calls mean() on x.", {"mean"}, "Calls [name] on x."),
        ("Build a GridSearch or np.grid_search(x).", {"GridSearch", "grid_search"}, "Build a [name] or [name](x)."),
        ("GridSearchCV is another class.", {"GridSearch"}, "GridSearchCV is another class."),
    ],
)
def test_mask(text, names, expected):
    assert mask(text, names) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Only a summary of one sentence here.",
        "Copyright 2001 by somebody who wrote it.\n\nAll of this text is under a licence that nobody reads.",
        ">>> code(1)\n2",
        "",
    ],
)
def test_no_pair(text):
    parts = document(text, 5)
    assert parts is None or not parts[1]


def test_long_first_paragraph_is_cut_at_a_sentence():
    summary, description = document("Solve it, e.g. For matrices. Then look at the result again.\n", 3)
    assert summary == "Solve it, e.g. For matrices." and description == "Then look at the result again."


def test_sublabel_is_the_folder(tmp_path):
    assert sublabel("scipy.optimize._minimize", tmp_path / "_minimize.py") == "scipy.optimize"
    assert sublabel("scipy.optimize", tmp_path / "__init__.py") == "scipy.optimize"
    assert sublabel("networkx.convert", tmp_path / "convert.py") == "networkx.convert"
    assert sublabel("a.b.c.d.e", tmp_path / "e.py") == "a.b.c"
