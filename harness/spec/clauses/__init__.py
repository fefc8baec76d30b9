# SPDX-License-Identifier: Apache-2.0
"""The clauses, a file for each subject; a file holds `CLAUSES`, and is found by being here."""
