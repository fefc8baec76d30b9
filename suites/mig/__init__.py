# SPDX-License-Identifier: Apache-2.0
"""Chapter MIG: migration protocol v2."""
