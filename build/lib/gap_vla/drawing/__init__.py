"""Pictures of arrays: charts, ρ under frames, pages, videos. Knows no other room but `core`."""
