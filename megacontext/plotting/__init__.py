"""Pictures and pages, for whatever is drawn here.

figures.py  matplotlib: palette, axes, PNG, inline SVG      page.py  one page of HTML that needs nothing else
"""
