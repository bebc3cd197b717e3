"""The verification of a bundle as one HTML file for people; see ``html_report.page``."""
