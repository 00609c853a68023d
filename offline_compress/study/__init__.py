"""Studies: many networks, each judged on a drive that it never saw, compared with intervals."""
