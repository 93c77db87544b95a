//! A report as one HTML page that needs nothing else: no network, no script.

use std::fmt::Write as _;

use super::document::{Block, Cell, Document, Section, Table};
use super::harmless::escape;
use super::plot::Plot;

/// The style sheet: colours for light and dark, one column or two, black on white in print.
const STYLE: &str = include_str!("page.css");

/// Prints it.
pub fn print(document: &Document) -> String {
    let title = escape(&document.title);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    let mut plots = 0;
    for (number, section) in document.sections.iter().enumerate() {
        print_section(number, section, &mut plots, &mut html);
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        html,
        "</main>\n<footer>vxtap {version}</footer>\n</body>\n</html>\n"
    );
    html
}

fn print_section(number: usize, section: &Section, plots: &mut usize, html: &mut String) {
    let title = escape(&section.title);
    let _ = writeln!(
        html,
        "<section aria-labelledby=\"s{number}\">\n<h2 id=\"s{number}\">{title}</h2>"
    );
    let mut blocks = section.blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        match block {
            Block::Text(words) => _ = writeln!(html, "<p>{}</p>", escape(words)),
            Block::Advice(words) => _ = writeln!(html, "<p class=\"advice\">{}</p>", escape(words)),
            Block::Facts(facts) => list(facts, html),
            Block::Table(table) => rows(table, html),
            // Those that follow each other share a row.
            Block::Plot(plot) => {
                html.push_str("<div class=\"plots\">\n");
                figure(plot, plots, html);
                while let Some(Block::Plot(plot)) =
                    blocks.next_if(|block| matches!(block, Block::Plot(_)))
                {
                    figure(plot, plots, html);
                }
                html.push_str("</div>\n");
            }
        }
    }
    html.push_str("</section>\n");
}

fn figure(plot: &Plot, plots: &mut usize, html: &mut String) {
    let (svg, caption) = (plot.svg(*plots), escape(&plot.title));
    let _ = write!(
        html,
        "<figure>\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n"
    );
    *plots += 1;
}

fn list(facts: &[(&'static str, Cell)], html: &mut String) {
    html.push_str("<table class=\"facts\">\n<tbody>\n");
    for (name, cell) in facts {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escape(name),
            value(cell)
        );
    }
    html.push_str("</tbody>\n</table>\n");
}

fn rows(table: &Table, html: &mut String) {
    let caption = escape(&table.caption);
    // What is too wide is scrolled, also with the keyboard.
    let _ = writeln!(
        html,
        "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n<table>\n\
         <caption>{caption}</caption>\n<thead>\n<tr>"
    );
    let class = |is_figures| if is_figures { " class=\"n\"" } else { "" };
    let classes: Vec<&str> = table.columns().map(|(_, figures)| class(figures)).collect();
    for (head, class) in table.heads.iter().zip(&classes) {
        let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escape(head));
    }
    html.push_str("</tr>\n</thead>\n<tbody>\n");
    for row in &table.rows {
        html.push_str("<tr>");
        for (column, (cell, class)) in row.iter().zip(&classes).enumerate() {
            let _ = match column {
                0 => write!(html, "<th scope=\"row\"{class}>{}</th>", value(cell)),
                _ => write!(html, "<td{class}>{}</td>", value(cell)),
            };
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
}

/// What people read, and the exact number for who takes it from the page.
fn value(cell: &Cell) -> String {
    let text = escape(&cell.text);
    match cell.value {
        Some(value) if cell.text != value.to_string() => {
            format!("<data value=\"{value}\" title=\"{value}\">{text}</data>")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let odd = "<script>alert('1')</script> \"&\" \u{1b}[31m \u{202e}";
        let expected = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;&amp;&quot; \u{fffd}[31m \u{fffd}";
        assert_eq!(escape(odd), expected);
        assert_eq!(escape("Größe 1,5 µs – 漢字"), "Größe 1,5 µs – 漢字");
    }
}
