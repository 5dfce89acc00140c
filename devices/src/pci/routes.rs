//! Which function answers to which address of a segment's windows.

use std::collections::BTreeMap;

use super::address::{AddressRange, BarIndex, Bdf};
use super::function::{DecodedBar, SharedFunction};

/// Where an access goes.
#[derive(Clone)]
pub struct Route {
    /// The whole BAR.
    pub range: AddressRange,
    /// The BAR's number.
    pub bar: BarIndex,
    /// Whose BAR it is.
    pub function: SharedFunction,
    bdf: Bdf,
}

/// The decoded BARs of a segment: disjoint, each wholly within one window.
pub struct Routes {
    windows: Vec<AddressRange>,
    by_base: BTreeMap<u64, Route>,
}

impl Routes {
    /// No BAR yet; `windows` is where BARs may be.
    pub fn new(windows: Vec<AddressRange>) -> Self {
        Self { windows, by_base: BTreeMap::new() }
    }

    /// Puts `wanted` in the place of all that `bdf` had, and returns those of `wanted` that are decoded.
    ///
    /// Outside the windows there is no PCI: a guest may put a BAR there (on RAM, on the interrupt controller), and
    /// nothing answers. Where two BARs overlap, the one that was there first answers.
    pub fn replace(
        &mut self,
        bdf: Bdf,
        function: Option<&SharedFunction>,
        wanted: &[DecodedBar],
    ) -> Vec<DecodedBar> {
        self.by_base.retain(|_, route| route.bdf != bdf);
        let Some(function) = function else { return Vec::new() };
        let mut decoded = Vec::with_capacity(wanted.len());
        for &DecodedBar { bar, range } in wanted {
            if self.windows.iter().any(|window| window.contains(range)) && !self.taken(range) {
                self.by_base.insert(range.base(), Route { range, bar, function: function.clone(), bdf });
                decoded.push(DecodedBar { bar, range });
            }
        }
        decoded
    }

    /// The BAR that all of `access` lies in.
    pub fn find(&self, access: AddressRange) -> Option<&Route> {
        let (_, route) = self.by_base.range(..=access.base()).next_back()?;
        route.range.contains(access).then_some(route)
    }

    fn taken(&self, range: AddressRange) -> bool {
        // Routes are disjoint, so only the last that begins at or below range's end can reach into it.
        let below = self.by_base.range(..=range.last()).next_back();
        below.is_some_and(|(_, route)| route.range.overlaps(range))
    }
}
