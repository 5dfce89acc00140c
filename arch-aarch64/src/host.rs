//! What this host can do, for `granule probe` and the API.
