# SPDX-License-Identifier: Apache-2.0
"""What conforms: pure functions from (capabilities, program, trace) to clauses checked and clauses broken."""
