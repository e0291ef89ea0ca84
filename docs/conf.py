"""How Sphinx builds the site from these pages: `make site`."""

project = "limbeck"
author = "The limbeck developers"
project_copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["design.md"]  # a pointer for readers of the repository
html_theme = "furo"
html_title = "limbeck"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
smartquotes = False  # they would make one dash of the two of a flag
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Pages of results begin with their own level of headings, and show commands for shells and snippets of any language.
suppress_warnings = ["misc.highlighting_failure"]
