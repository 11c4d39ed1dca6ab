"""`report.html`: what a run did and how good the result is, on one page that opens without a network."""
