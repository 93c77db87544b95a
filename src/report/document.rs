//! What a report says, apart from how it is printed: sections of sentences, figures, tables and plots. Pure.

use super::page::bytes;
use super::plot::Plot;
use crate::mirror::words::percent;

/// A report.
pub struct Document {
    /// Its title.
    pub title: String,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// A section.
pub struct Section {
    /// Its title.
    pub title: String,
    /// What stands in it.
    pub blocks: Vec<Block>,
}

impl Section {
    /// With blocks.
    pub fn new(title: impl Into<String>, blocks: Vec<Block>) -> Self {
        let title = title.into();
        Self { title, blocks }
    }
}

/// A part of a section.
pub enum Block {
    /// A sentence or more.
    Text(String),
    /// What to do.
    Advice(String),
    /// Figures, each with its name.
    Facts(Vec<(&'static str, Cell)>),
    /// Rows of figures.
    Table(Table),
    /// A plot, for those who can see one: its figures stand elsewhere too.
    Plot(Box<Plot>),
}

/// Rows of figures.
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Its columns.
    pub heads: Vec<&'static str>,
    /// Its rows; the first cell names the row.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// The columns, and whether each holds figures.
    pub fn columns(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let holds_figures = |at: usize| {
            let mut cells = self.rows.iter().filter_map(move |row| row.get(at));
            cells.any(|cell| cell.is_figure)
        };
        (0..)
            .zip(&self.heads)
            .map(move |(at, head)| (*head, holds_figures(at)))
    }
}

/// What stands in a place of a table.
#[derive(Clone)]
pub struct Cell {
    /// For people.
    pub text: String,
    /// The number behind it, exactly.
    pub value: Option<u64>,
    /// It is a figure: these stand below each other to the right.
    pub is_figure: bool,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            text,
            value: None,
            is_figure: false,
        }
    }

    /// A number in these words.
    pub const fn figure(text: String, number: u64) -> Self {
        Self {
            text,
            value: Some(number),
            is_figure: true,
        }
    }

    /// A number, as it is.
    pub fn count(number: u64) -> Self {
        Self::figure(number.to_string(), number)
    }

    /// A number, or a dash where there is none.
    pub fn maybe(number: Option<u32>) -> Self {
        number.map_or_else(|| Self::text("–"), |number| Self::count(number.into()))
    }

    /// Bytes, in the unit that fits.
    pub fn bytes(number: u64) -> Self {
        Self::figure(bytes(number), number)
    }

    /// A part of a whole.
    pub fn share(part: u64, whole: u64) -> Self {
        Self {
            is_figure: true,
            ..Self::text(percent(part, whole))
        }
    }
}
