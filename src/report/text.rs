//! A report as text.

use std::fmt::Write as _;

use super::document::{Block, Cell, Document, Table};
use super::harmless::clean;
use super::page::wrap;

/// Characters of a line of sentences.
const WIDTH: usize = 100;

/// Prints it.
pub fn print(document: &Document) -> String {
    let mut text = format!("{}\n", clean(&document.title));
    for section in &document.sections {
        let _ = writeln!(text, "\n{}", clean(&section.title));
        for block in &section.blocks {
            match block {
                Block::Text(words) => sentences(words, "  ", &mut text),
                Block::Advice(words) => sentences(words, "  > ", &mut text),
                Block::Facts(facts) => list(facts, &mut text),
                Block::Table(table) => rows(table, &mut text),
                Block::Plot(plot) => {
                    let told = format!("{}: {}", plot.title, plot.description);
                    sentences(&told, "  ", &mut text);
                }
            }
        }
    }
    text
}

fn sentences(words: &str, indent: &str, text: &mut String) {
    for line in wrap(&clean(words), WIDTH - indent.len()) {
        let _ = writeln!(text, "{indent}{line}");
    }
}

fn list(facts: &[(&'static str, Cell)], text: &mut String) {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    for (name, cell) in facts {
        let mut lines = wrap(&clean(&cell.text), WIDTH - width - 4).into_iter();
        let _ = writeln!(
            text,
            "  {name:<width$}  {}",
            lines.next().unwrap_or_default()
        );
        for line in lines {
            let _ = writeln!(text, "  {:<width$}  {line}", "");
        }
    }
}

/// Columns of figures to the right, of words to the left.
fn rows(table: &Table, text: &mut String) {
    let heads = table.heads.iter().map(|head| (*head).to_owned()).collect();
    let rows = table.rows.iter().map(|row| texts(row));
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let columns = table.columns().enumerate();
    let columns: Vec<(usize, bool)> = columns
        .map(|(at, (_, figures))| (width(at), figures))
        .collect();
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, (width, is_figures)) in row.iter().zip(&columns) {
            let _ = match is_figures {
                true => write!(line, " {cell:>width$} "),
                false => write!(line, " {cell:<width$} "),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn texts(row: &[Cell]) -> Vec<String> {
    row.iter().map(|cell| clean(&cell.text)).collect()
}
