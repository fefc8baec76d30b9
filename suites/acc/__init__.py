# SPDX-License-Identifier: Apache-2.0
"""Chapter ACC: access, binding, exclusion."""
