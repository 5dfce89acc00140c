//! Models of the protocols on which every tag depends, small enough to be explored to the last state.
//!
//! | model | question |
//! |---|---|
//! | [`precopy`] | is what a live snapshot or a migration copies what the guest had when it stopped? |
//! | [`placement`] | does anybody ever see a page that was restored on demand before it is whole? |
//! | [`page_tags`] | does the kernel ever show stale tags, lose tags, or hang, while it initialises a page? |
//!
//! Each model has the protocol as it is, which holds in every reachable state, and *mutants*: the protocol with one rule
//! left out, each of which must be caught. A mutant that is not caught means that the model cannot see the bug
//! that the rule is there for. `docs/models.md` says what is not modelled and what was found.
//!
//! Nothing here is linked into the monitor: the models know no other crate of the project.

pub mod checker;
pub mod page_tags;
pub mod placement;
pub mod precopy;
