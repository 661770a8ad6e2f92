"""What trained policies see, by linear probes of their features, and when another policy has to help them."""
