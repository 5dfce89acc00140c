//! The window on tags, where there are any.

pub use granule_arch::mte::{TagWindow as Tags, TagWindowError as TagError};
