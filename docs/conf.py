"""The documentation as a site: pip install '.[docs]' && sphinx-build -W docs site"""

import re

import jax

project = "advspur"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["images", "tutorials"]
suppress_warnings = ["config.cache"]  # sphinx_gallery_conf holds a function
html_theme = "furo"
html_title = project
default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"


def reset_jax(conf, name):
    """Tutorials share a process; each starts with the defaults."""
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_compilation_cache_dir", None)


sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"\.py",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", reset_jax),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "copyfile_regex": "",
    "show_memory": False,
}


def as_markup(app, what, name, thing, options, lines):
    """Docstrings are plain text: |x| and a * b are formulas, and "Returns: ..." is a paragraph."""
    found, in_paragraph = [], False
    for line in lines:
        parts = line.split("`")  # every second one is code
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        line = "`".join(parts)
        start = re.match("(Returns|Raises): (.*)", line)
        in_paragraph = bool(start) or (in_paragraph and line.startswith("  "))
        if start:
            found += ["", f"**{start[1]}:** {start[2]}"]
        else:
            found.append(line.strip() if in_paragraph else line)
    lines[:] = found


def skip_fields(app, what, name, thing, skip, options):
    """Fields of a NamedTuple are in its signature."""
    return skip or type(thing).__name__ == "_tuplegetter"


def setup(app):
    app.connect("autodoc-process-docstring", as_markup, priority=1)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
