//! Memory tagging: what this host's kernel can do with it, and the two ways to reach the tags.
