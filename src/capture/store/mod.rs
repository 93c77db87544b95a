//! A directory of capture files that follow each other: when one ends, which have to go, and a manifest that
//! proves them.

pub mod captures;
pub mod contents;
pub mod custody;
pub mod finisher;
pub mod flows;
pub mod frames;
pub mod holdings;
pub mod hooks;
pub mod index;
pub mod inspect;
pub mod keeping;
pub mod keys;
pub mod manifest;
pub mod marks;
pub mod names;
pub mod place;
pub mod recover;
pub mod retention;
pub mod ring;
pub mod rolling;
pub mod rotation;
pub mod verify;
