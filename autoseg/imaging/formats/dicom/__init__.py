"""DICOM: series into images, label maps into segmentation objects and structure sets on the slices of their series.

pydicom, highdicom and their decoders belong to the extra `dicom`; they are imported where a DICOM file is read or
written.
"""
