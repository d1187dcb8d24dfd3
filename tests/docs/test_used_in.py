"""Functions of a package name the lessons that use them."""

CONF = """
extensions += ["inventories", "sphinx.ext.autodoc", "code_links", "api_names", "used_in"]
"""


def test_functions_list_their_lessons(site):
    """A function used in one lesson lists it; after the lesson no longer uses it, the list is gone."""
    conf = site.root / "docs/conf.py"
    conf.write_text(conf.read_text() + CONF)
    site.write(
        "src/tool/inner.py",
        'def double(x):\n    """Twice x."""\n    return 2 * x\n\n\ndef half(x):\n    """Half of x."""\n',
    )
    site.write("docs/api/pytorch_course/inner.rst", "Inner\n=====\n\n.. automodule:: tool.inner\n   :members:\n")
    index = site.root / "docs/index.rst"
    index.write_text(index.read_text() + "   api/pytorch_course/*\n")
    site.lesson("01_doubles", "from tool.inner import double\nassert double(2) == 4", title="Doubling")
    done = site.build()
    assert done.returncode == 0, done.stderr
    page = site.page("api/pytorch_course/inner")
    assert page.count("Lessons that use it") == 1
    assert page.index("Twice x") < page.index("Doubling") < page.index("Half of x")

    site.lesson("01_doubles", "assert 2 * 2 == 4", title="Doubling")
    done = site.build()
    assert done.returncode == 0, done.stderr
    assert "Lessons that use it" not in site.page("api/pytorch_course/inner")
