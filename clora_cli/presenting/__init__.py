"""How a report is shown: tables, figures, JSON, CSV and one HTML page (layer L3, beside ``reporting``)."""
