"""Case lists: CSV, TSV and JSON files, datalists of MONAI."""
