//! Which field is at fault, and how.

/// A field of a configuration that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct ConfigError {
    field: String,
    fault: Fault,
}

impl ConfigError {
    /// That field has that fault.
    pub fn new(field: impl Into<String>, fault: Fault) -> Self {
        Self { field: field.into(), fault }
    }

    /// The field's path in the JSON, such as `disks[1].queue_size`.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether two things that must differ are the same.
    pub fn is_duplicate(&self) -> bool {
        matches!(self.fault, Fault::Duplicate { .. })
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A number is too small or too large.
    #[error("{value} is not in {min}..={max}")]
    OutOfRange {
        /// The number.
        value: u64,
        /// The least that is accepted.
        min: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// A size is not made of whole pages.
    #[error("{value} is not a multiple of the page size, {page_size}")]
    NotPages {
        /// The size, bytes.
        value: u64,
        /// The page size, bytes.
        page_size: u64,
    },
    /// A size is more than there is.
    #[error("{value} bytes are more than {what} ({limit} bytes)")]
    TooMuch {
        /// The size, bytes.
        value: u64,
        /// What it is held against.
        what: &'static str,
        /// How much that is, bytes.
        limit: u64,
    },
    /// Something that must be given is not.
    #[error("missing: {0}")]
    Missing(&'static str),
    /// Text that must not be empty is.
    #[error("empty")]
    Empty,
    /// Text holds a NUL byte, which no file name and no command line can.
    #[error("holds a NUL byte")]
    Nul,
    /// Text is longer than what reads it can take.
    #[error("{length} bytes long, {what} takes {max}")]
    TooLong {
        /// How long it is.
        length: usize,
        /// What reads it.
        what: &'static str,
        /// How much that takes.
        max: usize,
    },
    /// A name is taken.
    #[error("`{name}` is the name of {other}, too")]
    Duplicate {
        /// The name.
        name: String,
        /// The field that has it.
        other: String,
    },
    /// The value does not fit another field's.
    #[error("{0}")]
    Contradiction(String),
    /// This build or architecture does not have it.
    #[error("{0}")]
    Unsupported(&'static str),
}
