"""The documentation site: `make docs` builds it, fastconv installed with its extra [docs]."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tools"))
try:
    import fastconv
except ImportError as error:  # not installed: built in place, or not at all
    sys.path.insert(1, str(HERE.parent.parent))
    try:
        import fastconv
    except ImportError:
        raise SystemExit(f'make docs: pip install ".[docs]" first ({error})') from error

project = "fastconv"
author = "the authors of fastconv"
version = release = fastconv.__version__
html_title = "fastconv"

extensions = ["myst_parser", "sphinx.ext.autodoc", "api", "mathml", "pages"]
exclude_patterns = ["tools"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
nitpicky = True
keep_warnings = True

autodoc_typehints = "none"  # the docstrings say it in the field's words
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
pygments_style = "default"

linkcheck_timeout = 20
