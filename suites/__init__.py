# SPDX-License-Identifier: Apache-2.0
"""What is certified, one folder a chapter; selftest proves the harness."""
