//! What to say of a text that is no TOML: the parser's words, put so that they tell what to write instead. Pure.

/// A sentence about a fault that the parser found in `line`, whose first `column` letters stand before it.
pub fn told(message: &str, line: &str, column: usize) -> String {
    let before: String = line.chars().take(column).collect();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if message == "duplicate key" {
        return match line.trim_start().strip_prefix('[') {
            Some(_) => format!(
                "{} is there already: put all its keys below the first one",
                line.trim()
            ),
            None => {
                let key = key_of(line);
                format!(
                    "'{key}' is there already; a list has all its values in brackets: {key} = [\"a\", \"b\"]"
                )
            }
        };
    }
    if has(&["escape", "unicode"]) {
        return "a backslash in \"…\" begins an escape: write \\\\ for a backslash, or put the text in '…', where it is one"
            .to_owned();
    }
    if has(&["basic string", "literal string, expected `'`"]) {
        return "the text is not closed: its second quotation mark is missing".to_owned();
    }
    if has(&["unclosed array"]) {
        return "the list is not closed: ] is missing".to_owned();
    }
    if has(&["missing comma"]) {
        return "a comma is missing between the values of the list".to_owned();
    }
    if has(&["unclosed table", "unclosed array table"]) {
        return "the name of a table is not closed: ] is missing".to_owned();
    }
    if has(&["leading zero"]) {
        return "a number has no 0 in front: leave it out, or put the value in quotation marks"
            .to_owned();
    }
    if has(&["unexpected key or value"]) {
        return "a line has one key and its value, and nothing behind them but a comment (#)"
            .to_owned();
    }
    if has(&["expected `=`"]) {
        return format!(
            "'{}' has no value: '=' is missing behind a key",
            before.trim()
        );
    }
    if has(&["unquoted key", "expected key"]) {
        return "a key is needed here: letters, digits and '-'; a comment begins with #".to_owned();
    }
    // Only now: the parser guesses at what a value was to be.
    match before.split_once('=') {
        Some((key, begun)) if !begun.trim_start().starts_with('[') => {
            let behind = line.split_once('=').map_or("", |(_, value)| value);
            let value = behind.split('#').next().unwrap_or_default().trim();
            match value {
                "" => format!("'{}' has no value behind its =", key.trim()),
                "True" | "False" => format!("'{value}' begins with a small letter: true, false"),
                _ => format!("a text needs quotation marks: {} = \"{value}\"", key.trim()),
            }
        }
        Some(_) => "a text in a list needs quotation marks, and a comma stands between two values"
            .to_owned(),
        None => format!("this is no TOML: {message}"),
    }
}

fn key_of(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_told_in_the_words_of_the_parser() {
        assert_eq!(told("odd thing", "what", 2), "this is no TOML: odd thing");
    }
}
