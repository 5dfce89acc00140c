//! The OpenAPI document (`api/openapi.yaml`), made of the very types that requests are read into, so that it cannot
//! tell otherwise.
//!
//! ```text
//!  types ── schemars ──► schemas ┐
//!  ENDPOINTS ── paths ───────────┴► document ── compared ──► api/openapi.yaml
//!                                      └─ facts ── compared ──► cloud-hypervisor.txt, differences.txt
//! ```
//! All of it is compiled for tests only. `GRANULE_WRITE_OPENAPI=1 cargo test -p granule-api openapi` writes both files anew.

mod document;
mod facts;
mod paths;
mod tests;
