//! No other architecture has tags.

use std::fs::File;

use vm_memory::VolatileSlice;

/// There is no window.
#[derive(Debug, thiserror::Error)]
#[error("this host's architecture has no memory tagging")]
pub struct TagError;

/// Never made.
#[derive(Debug)]
pub enum Tags {}

impl Tags {
    /// Always refused.
    pub fn map(_: &File, _: u64, _: usize) -> Result<Self, TagError> {
        Err(TagError)
    }

    /// No window.
    pub fn data(&self) -> VolatileSlice<'_> {
        match *self {}
    }

    /// No window.
    pub fn read_packed(&self, _: usize, _: &mut [u8]) -> Result<(), TagError> {
        match *self {}
    }

    /// No window.
    pub fn write_packed(&self, _: usize, _: &[u8]) -> Result<(), TagError> {
        match *self {}
    }
}
