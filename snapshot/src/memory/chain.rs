//! Reads memory through a chain: a diff, its parent, the parent's parent, down to a full snapshot.

use super::{MemoryError, MemoryLayer, MemoryWriter, PageSink, Presence};
use crate::file::{ReadAt, WriteAt};
use crate::layout::{Layout, PAGES_PER_BLOCK};

/// The memory of a snapshot and of all that it is a diff of, newest first.
#[derive(Debug)]
pub struct MemoryChain<F> {
    layers: Vec<MemoryLayer<F>>,
}

impl<F: ReadAt> MemoryChain<F> {
    /// A chain of these layers, newest first. Data and tags of a page each come from the first layer that has them.
    ///
    /// # Panics
    /// Without a layer, or with layers of different layouts: `directory` has checked that.
    #[must_use]
    pub fn new(layers: Vec<MemoryLayer<F>>) -> Self {
        assert!(!layers.is_empty(), "a chain has a layer");
        assert!(layers.windows(2).all(|pair| pair[0].layout() == pair[1].layout()), "layers of one layout");
        Self { layers }
    }

    /// The memory's layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.layers[0].layout()
    }

    /// The layers, newest first.
    pub fn layers_mut(&mut self) -> &mut [MemoryLayer<F>] {
        &mut self.layers
    }

    /// Reads the data of a page; `Inherited` only where the oldest layer is a diff itself.
    ///
    /// # Errors
    /// Where it is damaged in the layer that has it.
    pub fn read_data(&mut self, page: u64, data: &mut [u8]) -> Result<Presence, MemoryError> {
        self.first(|layer| layer.read_data(page, data))
    }

    /// Reads the packed tags of a page; `Inherited` only where the oldest layer is a diff itself.
    ///
    /// # Errors
    /// Where they are damaged in the layer that has them.
    pub fn read_tags(&mut self, page: u64, packed: &mut [u8]) -> Result<Presence, MemoryError> {
        self.first(|layer| layer.read_tags(page, packed))
    }

    fn first(
        &mut self,
        mut read: impl FnMut(&mut MemoryLayer<F>) -> Result<Presence, MemoryError>,
    ) -> Result<Presence, MemoryError> {
        for layer in &mut self.layers {
            let presence = read(layer)?;
            if presence != Presence::Inherited {
                return Ok(presence);
            }
        }
        Ok(Presence::Inherited)
    }

    /// The first block from `block` on of which any layer has anything.
    #[must_use]
    pub fn next_block(&self, block: u64) -> Option<u64> {
        self.layers.iter().filter_map(|layer| layer.next_block(block)).min()
    }

    /// The pages of the blocks of which any layer has anything.
    fn each_page(
        &mut self,
        mut f: impl FnMut(&mut Self, u64) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let mut from = 0;
        while let Some(block) = self.next_block(from) {
            let first = block * PAGES_PER_BLOCK;
            for page in first..first + self.layout().pages_in_block(block) as u64 {
                f(self, page)?;
            }
            from = block + 1;
        }
        Ok(())
    }

    /// Gives all memory to `sink`: first a page's data, then its tags.
    ///
    /// # Errors
    /// Where something is damaged, the chain has no full snapshot at its end, or the sink fails.
    pub fn restore(&mut self, sink: &mut impl PageSink) -> Result<(), MemoryError> {
        let mut data = vec![0; self.layout().page_size().bytes()];
        let mut packed = vec![0; self.layout().page_size().packed_tags()];
        self.each_page(|chain, page| {
            let failed = |source| MemoryError::Sink { page, source };
            match chain.read_data(page, &mut data)? {
                Presence::Zero => {}
                Presence::Present => sink.write_data(page, &data).map_err(failed)?,
                Presence::Inherited => return Err(MemoryError::NoBase { page }),
            }
            match chain.read_tags(page, &mut packed)? {
                Presence::Zero => Ok(()),
                Presence::Present => sink.write_tags(page, &packed).map_err(failed),
                Presence::Inherited => Err(MemoryError::NoBase { page }),
            }
        })
    }

    /// Writes what the whole chain says as one layer: full, if the oldest layer is; else a diff of that one's parent.
    ///
    /// # Errors
    /// Where something is damaged or cannot be written.
    pub fn merge<W: WriteAt>(&mut self, writer: &mut MemoryWriter<W>) -> Result<(), MemoryError> {
        let mut data = vec![0; self.layout().page_size().bytes()];
        let mut packed = vec![0; self.layout().page_size().packed_tags()];
        self.each_page(|chain, page| {
            if chain.read_data(page, &mut data)? != Presence::Inherited {
                writer.put_data(page, &data)?;
            }
            if chain.read_tags(page, &mut packed)? != Presence::Inherited {
                writer.put_tags(page, &packed)?;
            }
            Ok(())
        })
    }
}
