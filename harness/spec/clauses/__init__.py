# SPDX-License-Identifier: Apache-2.0
"""The clauses, one file for each subject; every file here is loaded and must have `CLAUSES`."""
