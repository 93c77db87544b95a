//! Capture files out: records encoded by the workers, put together and kept on disk by one writer.

pub mod first_places;
pub mod merge;
pub mod output;
pub mod store;
pub mod terms;
pub mod view;
pub mod writer;
