"""A report as people and programs read it: tables, figures, JSON, CSV and one HTML page (layer L3, beside ``reporting``).

``reporting`` computes, the modules here show; ``report_file`` writes a report in the form that a file's ending names.
Matplotlib and Jinja2 are imported only when something is drawn or an HTML page is written.
"""
